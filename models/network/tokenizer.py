"""The WordPiece tokenizer of bert-base-uncased with BLIP's two extra tokens at the end.

salesforce/BLIP models/blip.py (init_tokenizer) appends [DEC], then [ENC]: ids 30522 and 30523 after BERT's
30522 entries. The first token of a text selects its use (paper, section 3.1): [CLS] for ITC, [ENC] for ITM,
[DEC] for LM.

Shape suffixes: B texts, T tokens.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece
from torch import Tensor

First = Literal["cls", "enc", "dec"]

PAD, UNKNOWN, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
BERT_SPECIALS = (PAD, UNKNOWN, CLS, SEP, MASK)
DEC, ENC = "[DEC]", "[ENC]"
MAX_POSITIONS = 512  # BERT's maximum, written as model_max_length for transformers
MIN_VOCABULARY = 32  # a smaller trained vocabulary would hold little more than the special tokens
MAX_WORD_CHARACTERS = 101
"""What a token of a text takes at most: a word of 100 characters, because a longer one is [UNK], and a space.
So a text that is cut to this many characters per token still fills the row with the same tokens."""
MAX_TRAINING_WORD = 1000
"""Longer runs of characters without whitespace are no words and are left out of a training."""
MAX_ALPHABET = 1000  # characters of a trained vocabulary, as in BERT's

ENDLESS_WORD = re.compile(rf"\S{{{MAX_TRAINING_WORD + 1},}}")


class Tokenizer:
    """Encodes texts as token ids and decodes them. Create one with `from_folder` or `train`."""

    def __init__(self, backend: Backend) -> None:
        """Wrap a WordPiece tokenizer and append [DEC] and [ENC].

        Raises:
            ValueError: the vocabulary lacks BERT's special tokens.
        """
        missing = [token for token in (PAD, UNKNOWN, CLS, SEP) if backend.token_to_id(token) is None]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}: a BERT WordPiece vocabulary is required"
            )
        backend.add_special_tokens(_added_tokens(DEC, ENC))
        backend.no_truncation()
        backend.no_padding()
        # Treat "[SEP]" or "[ENC]" in a web text as plain text, not as a special token.
        backend.encode_special_tokens = True
        self.backend = backend
        self.pad_id, self.cls_id, self.sep_id, self.dec_id, self.enc_id = (
            _id_of(backend, token) for token in (PAD, CLS, SEP, DEC, ENC)
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to vocab_size - 1."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read `tokenizer.json`, or else `vocab.txt` (one entry per line).

        Raises:
            ValueError: the folder has neither file, or the file cannot be read.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            try:
                backend = Backend.from_file(str(folder / "tokenizer.json"))
            except Exception as error:  # the library raises Exception itself
                raise ValueError(f"{folder / 'tokenizer.json'} is not a tokenizer ({error})") from error
            return cls(backend)
        if (folder / "vocab.txt").is_file():
            entries = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
            return cls(_bert_backend({entry: i for i, entry in enumerate(entries) if entry}))
        raise ValueError(f"no tokenizer.json or vocab.txt in {folder}: pass a folder with one of them")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a vocabulary of at most `vocab_size` entries, [DEC] and [ENC] included.

        The same texts always give the same vocabulary.

        Raises:
            ValueError: `vocab_size` is below 32.
        """
        if vocab_size < MIN_VOCABULARY:
            raise ValueError(f"vocab_size is {vocab_size}: it must be at least {MIN_VOCABULARY}")
        backend = _bert_backend({})
        lines = [backend.normalizer.normalize_str(ENDLESS_WORD.sub(" ", text)) for text in texts]
        counts = Counter(character for character in chain.from_iterable(lines) if not character.isspace())
        by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
        # A character takes two entries, one of them prefixed by "##". A quarter of the vocabulary is left for
        # longer entries.
        alphabet = sorted(by_frequency[: min(MAX_ALPHABET, (vocab_size - len(BERT_SPECIALS) - 2) * 3 // 8)])
        remove_rare = str.maketrans(dict.fromkeys(set(by_frequency) - set(alphabet), " "))
        # The trainer numbers the "##" characters in an order that differs between runs, and breaks ties
        # between merges by these numbers. Special tokens are numbered in the order given.
        pieces = [f"##{character}" for character in alphabet]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size - 2, special_tokens=[*BERT_SPECIALS, *pieces], show_progress=False
        )
        backend.train_from_iterator((line.translate(remove_rare) for line in lines), trainer)
        return cls(_bert_backend(backend.get_vocab()))

    def encode(
        self,
        texts: Sequence[str],
        max_length: int,
        first: First = "cls",
        sep: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask (1 for tokens, 0 for padding), both int64 [B, T], padded on the right.

        Args:
            texts: B texts.
            max_length: maximum row length; longer texts are cut.
            first: the token in front of the text.
            sep: whether [SEP] follows the text; False for a prompt to be continued.

        Raises:
            ValueError: `max_length` leaves no room for the text.
        """
        room = max_length - 1 - sep
        if room < 1:
            raise ValueError(f"max_length is {max_length}: it must be at least {2 + sep}")
        opening = {"cls": self.cls_id, "enc": self.enc_id, "dec": self.dec_id}[first]
        closing = [self.sep_id] if sep else []
        # The library needs hundreds of bytes per character, so a text is cut before it gets there.
        characters = (room + 1) * MAX_WORD_CHARACTERS
        encodings = self.backend.encode_batch([text[:characters] for text in texts], add_special_tokens=False)
        rows = [[opening, *encoding.ids[:room], *closing] for encoding in encodings]
        length = max((len(row) for row in rows), default=0)
        padded = [row + [self.pad_id] * (length - len(row)) for row in rows]
        ids_BT = torch.tensor(padded, dtype=torch.long).reshape(len(rows), length)
        lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return ids_BT, (torch.arange(length) < lengths_B[:, None]).long()

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of one row of ids, without special tokens."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, rows: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """The texts of rows of any lengths, without special tokens."""
        lists = [row.tolist() if isinstance(row, Tensor) else list(row) for row in rows]
        return self.backend.decode_batch(lists, skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Write files from which this class and the AutoTokenizer of transformers load the same tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        names = {
            "pad_token": PAD,
            "unk_token": UNKNOWN,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
        }
        specials: dict[str, Any] = {
            name: token for name, token in names.items() if self.backend.token_to_id(token) is not None
        }
        specials |= {"bos_token": DEC, "additional_special_tokens": [ENC]}
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | specials
        _write_json(folder / "special_tokens_map.json", specials)
        _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": MAX_POSITIONS})


def _bert_backend(vocabulary: dict[str, int]) -> Backend:
    """BERT's uncased pipeline with a vocabulary (empty for training)."""
    backend = Backend(WordPiece(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    present = [token for token in BERT_SPECIALS if token in vocabulary]
    backend.add_special_tokens(_added_tokens(*present))
    if CLS in vocabulary and SEP in vocabulary:
        # For other readers of tokenizer.json; `encode` adds these tokens itself.
        backend.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(CLS, vocabulary[CLS]), (SEP, vocabulary[SEP])],
        )
    return backend


def _id_of(backend: Backend, token: str) -> int:
    number = backend.token_to_id(token)
    assert number is not None
    return number


def _added_tokens(*tokens: str) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

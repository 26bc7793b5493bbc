"""WordPiece tokens, lower-cased as in bert-base-uncased, with BLIP's two extra tokens at the end.

salesforce/BLIP models/blip.py (init_tokenizer) appends [DEC] first, then [ENC]: 30522 and 30523 after BERT's
30522 entries. Position 0 of a text says what it is for (paper, section 3.1): [CLS] ITC, [ENC] ITM, [DEC] LM.

Shape suffixes: B texts, T tokens.
"""

import json
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
MAX_POSITIONS = 512  # BERT's; what transformers reads as model_max_length
MIN_VOCABULARY = 32  # below it a trained vocabulary holds hardly more than the special tokens
MAX_ALPHABET = 1000  # characters a trained vocabulary knows, as in BERT's own


class Tokenizer:
    """Text to token ids and back. Make one with `from_folder` or `train`."""

    def __init__(self, backend: Backend) -> None:
        """Takes a WordPiece tokenizer, appends [DEC] and [ENC]; ValueError if BERT's own are missing."""
        lacking = [token for token in (PAD, UNKNOWN, CLS, SEP) if backend.token_to_id(token) is None]
        if lacking:
            raise ValueError(f"tokenizer lacks {', '.join(lacking)}: a BERT WordPiece vocabulary is due")
        backend.add_special_tokens(_special(DEC, ENC))
        backend.no_truncation()
        backend.no_padding()
        # A web text that contains "[SEP]" or "[ENC]" is spelt out like any other text, never obeyed.
        backend.encode_special_tokens = True
        self.backend = backend
        self.pad_id, self.cls_id, self.sep_id, self.dec_id, self.enc_id = (
            _id_of(backend, token) for token in (PAD, CLS, SEP, DEC, ENC)
        )

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to vocab_size - 1."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Reads `tokenizer.json`, else `vocab.txt` (one entry a line); ValueError if both are missing."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return cls(Backend.from_file(str(folder / "tokenizer.json")))
        if (folder / "vocab.txt").is_file():
            entries = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
            return cls(_bert({entry: i for i, entry in enumerate(entries) if entry}))
        raise ValueError(f"no tokenizer.json or vocab.txt in {folder}: give a folder that holds one of them")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A vocabulary of at most `vocab_size` entries learnt from `texts`, [DEC] and [ENC] included.

        The same texts always yield the same vocabulary. ValueError if `vocab_size` is below 32.
        """
        if vocab_size < MIN_VOCABULARY:
            raise ValueError(f"vocab_size is {vocab_size}: it must be at least {MIN_VOCABULARY}")
        backend = _bert({})
        lines = [backend.normalizer.normalize_str(text) for text in texts]
        counts = Counter(character for character in chain.from_iterable(lines) if not character.isspace())
        common = sorted(counts, key=lambda character: (-counts[character], character))
        # A character takes two entries, as itself and as "##" piece; a quarter of all is for longer ones.
        kept = sorted(common[: min(MAX_ALPHABET, (vocab_size - len(BERT_SPECIALS) - 2) * 3 // 8)])
        rare = str.maketrans(dict.fromkeys(set(common) - set(kept), " "))
        # The trainer numbers the "##" characters in an order that differs from run to run, and breaks ties
        # between merges by these numbers. Handed over as specials they are numbered in the order given.
        pieces = [f"##{character}" for character in kept]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size - 2, special_tokens=[*BERT_SPECIALS, *pieces], show_progress=False
        )
        backend.train_from_iterator((line.translate(rare) for line in lines), trainer)
        return cls(_bert(backend.get_vocab()))

    def encode(
        self,
        texts: Sequence[str],
        max_length: int,
        first: First = "cls",
        pad_to: int | None = None,
        sep: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and mask (1 on tokens, 0 on padding), both long [B, T], padded to the right.

        A row is the `first` token, the text, [SEP]; what exceeds `max_length` is cut off the text. T is the
        longest row's length, or `pad_to`. A prompt that is to be continued has no [SEP]: `sep=False`.
        ValueError if `max_length` leaves no room for the text or exceeds `pad_to`.
        """
        room = max_length - 1 - sep
        if room < 1 or (pad_to is not None and pad_to < max_length):
            upper = f" and at most pad_to, {pad_to}" if pad_to else ""
            raise ValueError(f"max_length is {max_length}: it must be at least {2 + sep}{upper}")
        opening = {"cls": self.cls_id, "enc": self.enc_id, "dec": self.dec_id}[first]
        closing = [self.sep_id] if sep else []
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        rows = [[opening, *encoding.ids[:room], *closing] for encoding in encodings]
        length = pad_to or max((len(row) for row in rows), default=0)
        padded = [row + [self.pad_id] * (length - len(row)) for row in rows]
        ids_BT = torch.tensor(padded, dtype=torch.long).reshape(len(rows), length)
        lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return ids_BT, (torch.arange(length) < lengths_B[:, None]).long()

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of one row of ids, special tokens left out."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, rows: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """`decode` for many rows, of any lengths."""
        lists = [row.tolist() if isinstance(row, Tensor) else list(row) for row in rows]
        return self.backend.decode_batch(lists, skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Writes the files from which this class and transformers' AutoTokenizer load the same tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        named = {
            "pad_token": PAD,
            "unk_token": UNKNOWN,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
        }
        specials: dict[str, Any] = {
            name: token for name, token in named.items() if self.backend.token_to_id(token) is not None
        }
        specials |= {"bos_token": DEC, "additional_special_tokens": [ENC]}
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True} | specials
        _write_json(folder / "special_tokens_map.json", specials)
        _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": MAX_POSITIONS})


def _bert(vocabulary: dict[str, int]) -> Backend:
    """BERT's uncased pipeline around a vocabulary (empty: to be trained)."""
    backend = Backend(WordPiece(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    present = [token for token in BERT_SPECIALS if token in vocabulary]
    backend.add_special_tokens(_special(*present))
    if CLS in vocabulary and SEP in vocabulary:
        # Only for programs that read tokenizer.json: `encode` frames its rows itself.
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


def _special(*tokens: str) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

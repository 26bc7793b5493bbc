"""The tokenizer against the BertTokenizer of transformers with the same vocabulary, and values by hand."""

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

from capfilt.models.network.tokenizer import Tokenizer

# 20 entries, special tokens first as in BERT.
ENTRIES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "picture",
    "of",
    "the",
    "red",
    "dog",
    "cat",
    "##s",
    "run",
    "##ning",
    "jump",
    "##ed",
    ",",
    "'",
    "two",
]
TEXTS = [
    "A picture of the RED dogs",
    "two cats, running",
    "jumped  jumps\tdog's",
    "é cat 犬",
    "",
    "[SEP] dog [ENC]",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(ENTRIES) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


def test_special_ids_follow_the_vocabulary_dec_first(tokenizer):
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 2, 3)
    assert (tokenizer.dec_id, tokenizer.enc_id, tokenizer.vocab_size) == (20, 21, 22)


@pytest.mark.parametrize("max_length", [4, 6, 30])
def test_ids_equal_those_of_bert(tokenizer, max_length):
    bert = BertTokenizer(vocab={entry: i for i, entry in enumerate(ENTRIES)})
    texts = TEXTS[:-1]  # the last text contains special tokens, see below
    expected = bert(texts, padding="longest", truncation=True, max_length=max_length, return_tensors="pt")
    ids, mask = tokenizer.encode(texts, max_length)
    assert torch.equal(ids, expected["input_ids"]) and torch.equal(mask, expected["attention_mask"])
    assert ids.dtype == mask.dtype == torch.long


def test_the_first_token_selects_the_use_of_the_text(tokenizer):
    rows = {
        first: tokenizer.encode(["red dog"], 10, first=first)[0][0].tolist()
        for first in ("cls", "enc", "dec")
    }
    assert rows == {"cls": [2, 9, 10, 3], "enc": [21, 9, 10, 3], "dec": [20, 9, 10, 3]}


def test_a_prompt_has_no_end_token(tokenizer):
    ids, mask = tokenizer.encode(["a picture of "], 10, first="dec", sep=False)
    assert ids.tolist() == [[20, 5, 6, 7]] and mask.tolist() == [[1, 1, 1, 1]]


def test_rows_are_padded_to_the_longest(tokenizer):
    ids, mask = tokenizer.encode(["dog", "red dog"], 4)
    assert ids.tolist() == [[2, 10, 3, 0], [2, 9, 10, 3]] and mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert tokenizer.encode([], 4)[0].shape == (0, 0)


def test_special_tokens_in_a_text_are_plain_text(tokenizer):
    ids = tokenizer.encode(["[SEP] dog [ENC] [PAD] [DEC]"], 30)[0][0].tolist()
    assert ids[0] == 2 and ids[-1] == 3 and 10 in ids
    assert not {0, 2, 3, 20, 21} & set(ids[1:-1])


@pytest.mark.parametrize(("max_length", "sep", "shortest"), [(2, True, 3), (0, True, 3), (1, False, 2)])
def test_lengths_without_room_for_the_text_are_rejected(tokenizer, max_length, sep, shortest):
    with pytest.raises(ValueError, match=f"max_length is {max_length}: it must be at least {shortest}"):
        tokenizer.encode(["dog"], max_length, sep=sep)


def test_the_shortest_length_has_room_for_one_token(tokenizer):
    assert tokenizer.encode(["red dog"], 3)[0].tolist() == [[2, 9, 3]]
    assert tokenizer.encode(["red dog"], 2, sep=False)[0].tolist() == [[2, 9]]


def test_decoding_joins_pieces_and_omits_special_tokens(tokenizer):
    ids, _ = tokenizer.encode(["Two dogs, running", "a cat"], 30, first="dec")
    assert tokenizer.decode(ids[1]) == "a cat"
    assert tokenizer.decode_batch(list(ids)) == ["two dogs, running", "a cat"]
    bert = BertTokenizer(vocab={entry: i for i, entry in enumerate(ENTRIES)})
    assert tokenizer.decode(ids[0]) == bert.decode(ids[0][1:], skip_special_tokens=True)


def test_saved_files_load_in_transformers(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "out")
    again = Tokenizer.from_folder(tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids, _ = tokenizer.encode(TEXTS, 30, first="enc")
    assert torch.equal(again.encode(TEXTS, 30, first="enc")[0], ids)
    assert theirs(TEXTS[1])["input_ids"] == tokenizer.encode([TEXTS[1]], 30)[0][0].tolist()
    assert (len(theirs), theirs.bos_token_id, theirs.pad_token_id) == (22, 20, 0)
    assert theirs.convert_tokens_to_ids("[ENC]") == 21 and theirs.model_max_length == 512


def test_existing_extra_tokens_are_not_added_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "once")
    Tokenizer.from_folder(tmp_path / "once").save(tmp_path / "twice")
    assert Tokenizer.from_folder(tmp_path / "twice").vocab_size == 22


def test_a_folder_without_vocabulary_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_without_special_tokens_is_rejected(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ndog\n")
    with pytest.raises(ValueError, match=r"\[CLS\], \[SEP\]"):
        Tokenizer.from_folder(tmp_path)


CORPUS = ["a red dog jumping over two running cats", "the jumped cat", "dogs, cats & birds"] * 20


def test_training_always_gives_the_same_vocabulary():
    """The trainer of tokenizers numbers some entries in hash order, which differs between calls."""
    vocabularies = {Tokenizer.train(CORPUS, 90).backend.to_str() for _ in range(5)}
    assert len(vocabularies) == 1


def test_trained_vocabularies_respect_the_size_and_cover_the_corpus():
    tokenizer = Tokenizer.train(CORPUS, 90)
    assert tokenizer.vocab_size <= 90
    assert (tokenizer.dec_id, tokenizer.enc_id) == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)
    ids, mask = tokenizer.encode(CORPUS[:3], 60)
    unknown = tokenizer.backend.token_to_id("[UNK]")
    assert not (ids == unknown).any() and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids[0]) == CORPUS[0]
    assert mask.sum(1).min() > 3


def test_rare_characters_are_dropped_to_respect_the_size():
    corpus = [*CORPUS, "".join(chr(0x4E00 + i) for i in range(500))]
    tokenizer = Tokenizer.train(corpus, 200)
    assert tokenizer.vocab_size <= 200
    assert tokenizer.decode(tokenizer.encode(["red dogs"], 20)[0][0]) == "red dogs"


def characters(tokenizer):
    """The single-character entries without special tokens."""
    return [entry for entry in tokenizer.backend.get_vocab() if len(entry) == 1]


def test_characters_take_three_quarters_of_a_small_vocabulary():
    """87 entries are 5 + 2 special tokens and 80 others, of which 30 characters take 60."""
    many = [chr(0x4E00 + i) for i in range(200)]
    corpus = [f"{character} ab abc abcd bcd abab" for character in many]
    tokenizer = Tokenizer.train(corpus, 87)
    assert len(characters(tokenizer)) == 30
    assert tokenizer.vocab_size <= 87


def test_a_trained_vocabulary_uses_the_whole_size():
    corpus = [f"w{i:03d} v{i * 7:04d}" for i in range(400)]
    assert Tokenizer.train(corpus, 150).vocab_size == 150


def test_the_alphabet_is_limited_as_in_bert():
    text = " ".join(chr(0x4E00 + i) for i in range(1200))
    assert len(characters(Tokenizer.train([text], 4000))) == 1000


def test_a_vocabulary_below_32_entries_is_rejected():
    with pytest.raises(ValueError, match="vocab_size is 31: it must be at least 32"):
        Tokenizer.train(CORPUS, 31)
    assert Tokenizer.train(CORPUS, 32).vocab_size <= 32


@pytest.mark.parametrize("max_length", [4, 12])
@pytest.mark.parametrize("end", ["", "s", "ed", ",", " dog", " ", "x" * 200])
def test_cutting_by_characters_does_not_change_the_tokens(tokenizer, max_length, end):
    """The longest words that are no [UNK], and a text that ends around the cut."""
    word = "jump" + "ed" * 48  # 100 characters
    for extra in range(-2, 3):
        text = f"{' '.join([word] * (max_length + extra))}{end}"
        encoding = tokenizer.backend.encode(text, add_special_tokens=False)
        expected = [2, *encoding.ids[: max_length - 2], 3]
        assert tokenizer.encode([text], max_length)[0][0].tolist() == expected


def test_an_endless_word_is_cut_before_it_is_encoded(tokenizer, monkeypatch):
    class Backend:
        def encode_batch(self, texts, **options):
            lengths.extend(map(len, texts))
            return original.encode_batch(texts, **options)

    lengths, original = [], tokenizer.backend
    monkeypatch.setattr(tokenizer, "backend", Backend())
    assert tokenizer.encode(["a dog " + "x" * 5_000_000], 35)[0].tolist() == [[2, 5, 10, 1, 3]]
    assert lengths == [34 * 101]


def test_endless_words_are_left_out_of_a_training():
    texts = ["a red dog", "two red dogs"] * 3
    plain = Tokenizer.train([*texts, "b" * 1000], 40).backend.to_str()
    assert Tokenizer.train([*texts, "b" * 1000, "c" * 1001, "d" * 2_000_000], 40).backend.to_str() == plain
    assert Tokenizer.train([*texts, "b" * 1000, "c" * 1000], 40).backend.to_str() != plain

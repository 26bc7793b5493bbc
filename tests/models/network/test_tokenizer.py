"""The tokenizer against transformers' BertTokenizer of the same vocabulary, and values worked out by hand."""

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

from capfilt.models.caption_text import normalize_caption
from capfilt.models.network.tokenizer import Tokenizer

# 20 entries; [UNK] and friends first, as in BERT's files.
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
def words(folder):
    return Tokenizer.from_folder(folder)


def test_special_ids_follow_the_vocabulary_dec_first(words):
    assert (words.pad_id, words.cls_id, words.sep_id) == (0, 2, 3)
    assert (words.dec_id, words.enc_id, words.vocab_size) == (20, 21, 22)


@pytest.mark.parametrize("max_length", [4, 6, 30])
def test_ids_are_those_of_bert(words, max_length):
    bert = BertTokenizer(vocab={entry: i for i, entry in enumerate(ENTRIES)})
    texts = TEXTS[:-1]  # the last one holds special tokens, see below
    due = bert(texts, padding="longest", truncation=True, max_length=max_length, return_tensors="pt")
    ids, mask = words.encode(texts, max_length)
    assert torch.equal(ids, due["input_ids"]) and torch.equal(mask, due["attention_mask"])
    assert ids.dtype == mask.dtype == torch.long


def test_the_first_token_says_what_the_text_is_for(words):
    rows = {
        first: words.encode(["red dog"], 10, first=first)[0][0].tolist() for first in ("cls", "enc", "dec")
    }
    assert rows == {"cls": [2, 9, 10, 3], "enc": [21, 9, 10, 3], "dec": [20, 9, 10, 3]}


def test_a_prompt_has_no_end(words):
    ids, mask = words.encode(["a picture of "], 10, first="dec", sep=False)
    assert ids.tolist() == [[20, 5, 6, 7]] and mask.tolist() == [[1, 1, 1, 1]]


def test_rows_are_padded_to_the_longest_or_as_told(words):
    ids, mask = words.encode(["dog", "red dog"], 4)
    assert ids.tolist() == [[2, 10, 3, 0], [2, 9, 10, 3]] and mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert words.encode(["dog", "red dog"], 4, pad_to=7)[0].shape == (2, 7)
    assert words.encode([], 4)[0].shape == (0, 0)


def test_special_tokens_in_a_web_text_are_not_obeyed(words):
    ids = words.encode(["[SEP] dog [ENC] [PAD] [DEC]"], 30)[0][0].tolist()
    assert ids[0] == 2 and ids[-1] == 3 and 10 in ids
    assert not {0, 2, 3, 20, 21} & set(ids[1:-1])


@pytest.mark.parametrize(("max_length", "pad_to"), [(2, None), (0, None), (6, 5)])
def test_lengths_without_room_are_refused(words, max_length, pad_to):
    with pytest.raises(ValueError, match=f"max_length is {max_length}"):
        words.encode(["dog"], max_length, pad_to=pad_to)


def test_decoding_joins_pieces_and_leaves_specials_out(words):
    ids, _ = words.encode(["Two dogs, running", "a cat"], 30, first="dec")
    assert words.decode(ids[1]) == "a cat"
    assert words.decode_batch(list(ids)) == ["two dogs, running", "a cat"]
    bert = BertTokenizer(vocab={entry: i for i, entry in enumerate(ENTRIES)})
    assert words.decode(ids[0]) == bert.decode(ids[0][1:], skip_special_tokens=True)


def test_saved_files_load_in_transformers_too(words, tmp_path):
    words.save(tmp_path / "out")
    again = Tokenizer.from_folder(tmp_path / "out")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids, _ = words.encode(TEXTS, 30, first="enc")
    assert torch.equal(again.encode(TEXTS, 30, first="enc")[0], ids)
    assert theirs(TEXTS[1])["input_ids"] == words.encode([TEXTS[1]], 30)[0][0].tolist()
    assert (len(theirs), theirs.bos_token_id, theirs.pad_token_id) == (22, 20, 0)
    assert theirs.convert_tokens_to_ids("[ENC]") == 21 and theirs.model_max_length == 512


def test_tokens_already_there_are_not_added_twice(words, tmp_path):
    words.save(tmp_path / "once")
    Tokenizer.from_folder(tmp_path / "once").save(tmp_path / "twice")
    assert Tokenizer.from_folder(tmp_path / "twice").vocab_size == 22


def test_a_folder_without_vocabulary_is_named(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        Tokenizer.from_folder(tmp_path)


def test_a_vocabulary_that_is_not_berts_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ndog\n")
    with pytest.raises(ValueError, match=r"\[CLS\], \[SEP\]"):
        Tokenizer.from_folder(tmp_path)


CORPUS = ["a red dog jumping over two running cats", "the jumped cat", "dogs, cats & birds"] * 20


def test_training_always_gives_the_same_vocabulary():
    """The trainer underneath numbers some entries by hash order, anew at every call; ours must not."""
    vocabularies = {Tokenizer.train(CORPUS, 90).backend.to_str() for _ in range(5)}
    assert len(vocabularies) == 1


def test_training_keeps_to_the_size_and_spells_its_corpus():
    words = Tokenizer.train(CORPUS, 90)
    assert words.vocab_size <= 90
    assert (words.dec_id, words.enc_id) == (words.vocab_size - 2, words.vocab_size - 1)
    ids, mask = words.encode(CORPUS[:3], 60)
    unknown = words.backend.token_to_id("[UNK]")
    assert not (ids == unknown).any() and ids.max() < words.vocab_size
    assert words.decode(ids[0]) == CORPUS[0]
    assert mask.sum(1).min() > 3


def test_rare_characters_give_way_to_the_size():
    corpus = [*CORPUS, "".join(chr(0x4E00 + i) for i in range(500))]
    words = Tokenizer.train(corpus, 200)
    assert words.vocab_size <= 200
    assert words.decode(words.encode(["red dogs"], 20)[0][0]) == "red dogs"


def test_a_hopeless_size_is_refused():
    with pytest.raises(ValueError, match="vocab_size is 8"):
        Tokenizer.train(CORPUS, 8)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ('A Dog. "Runs"! (fast) #1 *now*: so; on ~', "a dog runs fast 1 now so on"),
        ("commas, questions? and 3 digits stay", "commas, questions? and 3 digits stay"),
        ("  many \t blanks\nhere ", "many blanks here"),
        ("...", ""),
        ("", ""),
    ],
)
def test_captions_are_normalised_as_in_the_paper(text, normal):
    assert normalize_caption(text) == normal


def test_captions_are_cut_after_words():
    assert normalize_caption("one two. three four", max_words=3) == "one two three"

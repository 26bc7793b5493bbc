"""Text formats: lines, JSON arrays that are read in chunks, and captions beside urls."""

import csv
import io
import json

import pytest

from capfilt.stages.manifest import text as text_formats
from capfilt.stages.manifest.delimited import iter_csv
from capfilt.stages.manifest.text import captions_path, iter_json_array, iter_jsonl


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_json_arrays_are_read_in_chunks(chunk, monkeypatch):
    monkeypatch.setattr(text_formats, "ARRAY_CHUNK", chunk)
    for text in ("[]", " [ ]\n", "[1]", '[12 , 345,-6.5e3 ,"a,]\\"b", {"x": [1, {"y": "ü"}]}, null,true]  '):
        elements = iter_json_array(io.StringIO(text))
        assert elements is not None and list(elements) == json.loads(text)
    assert iter_json_array(io.StringIO(' {"a": 1}')) is None
    for damaged, message in (
        ("[", "incomplete"),
        ("[1", "followed by nothing"),
        ("[1,", "incomplete"),
        ("[1 2]", "followed by '2]?'"),
        ('["a]', "incomplete"),
        ("[1, oops]", "incomplete"),
    ):
        with pytest.raises(ValueError, match=rf"JSON array.* {message}"):
            list(iter_json_array(io.StringIO(damaged)) or ())


class CountingStream(io.StringIO):
    """Counts what is read from it."""

    def __init__(self, text):
        super().__init__(text)
        self.sizes = []

    def read(self, size=-1):
        self.sizes.append(size)
        return super().read(size)


def test_a_json_array_is_streamed_and_a_long_element_is_read_in_growing_chunks(monkeypatch):
    monkeypatch.setattr(text_formats, "ARRAY_CHUNK", 10)
    stream = CountingStream("[" + "1, " * 1000 + "1]")
    elements = iter_json_array(stream)
    assert next(elements) == 1 and stream.tell() == 10
    assert sum(1 for _ in elements) == 1000
    stream = CountingStream(json.dumps(["x" * 10_000]))
    assert list(iter_json_array(stream)) == ["x" * 10_000]
    assert len(stream.sizes) < 20  # each chunk is as long as what is already there


def test_a_csv_field_may_be_much_longer_than_the_limit_of_the_csv_module():
    csv.field_size_limit(131_072)
    long = "x" * 10_000_000
    (record,) = iter_csv(["url,caption\n", f"u,{long}\n"])
    assert record == {"url": "u", "caption": long}


def test_only_the_first_line_must_be_json():
    assert list(iter_jsonl(['{"a": 1}\n', "\n", "oops\n", "2\n"])) == [{"a": 1}, None, 2]
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        list(iter_jsonl(["oops\n", "2\n"]))


@pytest.mark.parametrize(
    ("urls", "captions"),
    [
        ("a/x_urls.txt", "a/x_captions.txt"),
        ("a/x_urls.txt.gz", "a/x_captions.txt.gz"),
        ("a/x_urls.txt.zip", None),
        ("a/urls.txt", None),
        ("a/x_urls.csv", None),
    ],
)
def test_captions_are_expected_beside_a_list_of_urls(urls, captions):
    assert captions_path(urls) == captions

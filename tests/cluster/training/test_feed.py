"""The actor that reads for all workers of a training, without a running Ray."""

import pickle
from collections import Counter
from dataclasses import dataclass, field

import pytest

from capfilt.cluster.training import feed as module
from tests.local_feed import LocalFeed


@dataclass
class Letters:
    """A window whose items are words; each worker receives every n-th letter of all words."""

    items: tuple = ("ab", "cde", "f")
    workers: int = 2
    number: int = 0
    is_kept: bool = False
    reads: Counter = field(default_factory=Counter)

    @property
    def key(self):
        return self.number, self.items, self.workers

    def item_key(self, item):
        return item

    def read(self, item):
        self.reads[item] += 1
        if "!" in item:
            raise ValueError(f"{item} cannot be read")
        return item, 10 * len(item)

    def count(self, content):
        return len(content)

    def cut(self, content, number, counts):
        before = sum(counts[:number])
        letters = list(enumerate(content, start=before))
        return [
            pickle.dumps([letter for place, letter in letters if place % self.workers == rank])
            for rank in range(self.workers)
        ]


@pytest.fixture
def feed(monkeypatch):
    return LocalFeed(monkeypatch)


def letters_of(opened):
    return [letter for part in opened.parts() for letter in pickle.loads(part)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_worker_receives_its_part_and_each_item_is_read_once(feed, workers):
    window = Letters(workers=workers)
    opened = [feed.request(window, rank) for rank in range(workers)]
    assert [letters_of(each) for each in opened] == [list("abcdef")[rank::workers] for rank in range(workers)]
    assert {tuple(each.counts) for each in opened} == {(2, 3, 1)}
    assert {each.read_bytes for each in opened} == {60}
    assert window.reads == {"ab": 1, "cde": 1, "f": 1}
    assert not feed.cutter._open, "windows that all workers have are dropped"


def test_a_worker_that_begins_again_receives_the_same(feed):
    """The other one does, too; what they asked for before is of no use to them."""
    window = Letters()
    assert letters_of(feed.request(window, 0)) == ["a", "c", "e"]
    assert letters_of(feed.request(window, 0)) == ["a", "c", "e"]
    assert letters_of(feed.request(window, 1)) == ["b", "d", "f"]
    assert window.reads == {"ab": 2, "cde": 2, "f": 2} and not feed.cutter._open


def test_workers_that_were_started_again_receive_the_same_and_free_what_the_former_ones_have_left(feed):
    windows = [Letters(number=number) for number in range(3)]
    for window in windows:
        feed.request(window, 0)
    feed.request(windows[0], 1)
    assert len(feed.cutter._open) == 2
    last = windows[-1]
    assert letters_of(feed.request(last, 1, attempt=2)) == ["b", "d", "f"], "the first of them to ask"
    assert letters_of(feed.request(last, 0, attempt=2)) == ["a", "c", "e"]
    assert last.reads["ab"] == 2 and not feed.cutter._open
    assert letters_of(feed.request(windows[0], 0, attempt=2)) == ["a", "c", "e"]
    assert letters_of(feed.request(windows[0], 1, attempt=2)) == ["b", "d", "f"]
    assert windows[0].reads["ab"] == 2 and not feed.cutter._open


def test_few_windows_wait_for_a_worker_that_does_not_ask(feed):
    windows = [Letters(number=number) for number in range(module.MAX_OPEN + 1)]
    for window in windows:
        feed.request(window, 0)
    assert len(feed.cutter._open) == module.MAX_OPEN
    assert letters_of(feed.request(windows[1], 1)) == ["b", "d", "f"]
    assert windows[1].reads["ab"] == 1
    assert letters_of(feed.request(windows[0], 1)) == ["b", "d", "f"]
    assert windows[0].reads["ab"] == 2, "dropped, so read again"


def test_a_kept_item_is_read_once_for_all_windows(feed):
    first, second = Letters(is_kept=True, workers=1), Letters(is_kept=True, workers=1, number=1)
    assert letters_of(feed.request(first, 0)) == letters_of(feed.request(second, 0)) == list("abcdef")
    assert first.reads["ab"] == 1 and not second.reads
    assert feed.request(Letters(is_kept=True, workers=1, number=2), 0).read_bytes == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_few_items_are_read_at_a_time(feed, workers):
    items = tuple(f"word{number}" for number in range(20))
    opened = feed.request(Letters(items=items, workers=workers), 0)
    assert len(opened.counts) == 20
    assert feed.ray.most == module.READERS * workers


def test_an_item_that_cannot_be_read_is_an_error_for_every_worker(monkeypatch, feed):
    """As the reader has raised it, not as Ray wraps it."""
    window = Letters(items=("ab", "c!"))

    def get(references):
        try:
            return type(feed.ray).get(feed.ray, references)
        except ValueError as error:
            raise module.ray.exceptions.RayTaskError("read", "trace", error) from None

    monkeypatch.setattr(feed.ray, "get", get, raising=False)
    for rank in range(2):
        with pytest.raises(ValueError, match=r"^c! cannot be read$"):
            feed.request(window, rank)
    assert not feed.cutter._open

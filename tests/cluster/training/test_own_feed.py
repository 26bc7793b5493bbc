"""The input of a training with one worker, read in a thread."""

import threading
from dataclasses import dataclass, field

import pytest

from capfilt.cluster.training.own_feed import OwnFeed


@dataclass
class Letters:
    """A window of words, each an item; the samples are their letters."""

    items: tuple[str, ...]
    is_kept: bool = False
    workers: int = 1
    key: str = "window"
    read_items: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def item_key(self, item):
        return item

    def read(self, item):
        if item == "broken":
            raise OSError("no such shard")
        self.read_items.append(item)
        self.threads.add(threading.current_thread().name)
        return list(item), 10 * len(item)

    def count(self, content):
        return len(content)

    def cut(self, content, number, counts):
        return [f"{number} of {counts}: {''.join(content)}".encode()]


def test_a_window_is_read_in_another_thread_and_its_parts_are_in_order():
    window = Letters(("ab", "cde"))
    opened = OwnFeed().request(window, 0)
    assert (opened.counts, opened.read_bytes) == ([2, 3], 50)
    assert list(opened.parts()) == [b"0 of [2, 3]: ab", b"1 of [2, 3]: cde"]
    assert list(opened.parts()) == [], "they are dropped once they are taken"
    assert window.threads and threading.current_thread().name not in window.threads


@pytest.mark.parametrize(("is_kept", "reads", "read_bytes"), [(True, ["ab"], 0), (False, ["ab", "ab"], 20)])
def test_what_is_kept_is_read_once(is_kept, reads, read_bytes):
    window, feed = Letters(("ab",), is_kept), OwnFeed()
    first, second = feed.request(window, 0), feed.request(window, 0)
    assert first.read_bytes == 20 and second.read_bytes == read_bytes
    assert list(first.parts()) == list(second.parts()) and window.read_items == reads


def test_an_error_of_the_reader_reaches_the_training():
    opened = OwnFeed().request(Letters(("ab", "broken")), 0)
    with pytest.raises(OSError, match="no such shard"):
        _ = opened.counts
    with pytest.raises(OSError, match="no such shard"):
        list(opened.parts())


def test_a_window_of_several_workers_is_not_for_it():
    with pytest.raises(AssertionError, match="several workers"):
        OwnFeed().request(Letters(("ab",), workers=2), 0)

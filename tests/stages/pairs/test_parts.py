"""Parts of a source: which shard is in which part, and how many parts there can be."""

from collections import Counter

import pytest

from capfilt.stages.pairs.parts import PartsError, ShardRef, assign_parts, check_parts

WEB = [ShardRef("web", n, "web") for n in range(7)]


def test_shards_are_assigned_in_turn_and_the_sizes_of_parts_differ_by_at_most_one():
    assert [ref.part for ref in assign_parts(WEB, 3)] == [0, 1, 2, 0, 1, 2, 0]
    for shards, parts in ((5, 5), (11, 4), (3, 1)):
        refs = assign_parts([ShardRef("web", n, "web") for n in range(shards)], parts)
        sizes = Counter(ref.part for ref in refs)
        assert len(sizes) == parts and max(sizes.values()) - min(sizes.values()) <= 1
    assert assign_parts(WEB[::-1], 3) == assign_parts(WEB, 3), "the order of the shards has no effect"
    assert assign_parts([], 3) == []


def test_a_shard_is_used_in_the_epochs_of_its_part():
    assert [e for e in range(7) if assign_parts(WEB, 3)[1].is_in_epoch(e)] == [1, 4]
    assert all(WEB[0].is_in_epoch(epoch) for epoch in range(7))


def test_more_parts_than_shards_is_one_line_that_names_the_key():
    message = (
        r"^sources\.web\.parts: 8 parts need 8 shards, but the source has 7; set at most 7, or use smaller"
    )
    with pytest.raises(PartsError, match=message):
        assign_parts(WEB, 8)
    check_parts("web", 7, 7)
    check_parts("web", 1, 0)
    with pytest.raises(PartsError, match=r"2 parts need 2 shards, but the source has 0; set at most 1,"):
        check_parts("web", 2, 0)

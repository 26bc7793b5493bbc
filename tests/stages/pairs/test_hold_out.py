"""Which web images are held out of every training."""

import pytest

from capfilt.stages.pairs.hold_out import is_held_out
from capfilt.stages.rows import row_key

KEYS = [row_key(shard, row) for shard in range(20) for row in range(500)]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
def test_share_of_the_images_is_held_out(share):
    found = sum(is_held_out("web", key, share) for key in KEYS) / len(KEYS)
    assert found == pytest.approx(share, abs=4 * (share * (1 - share) / len(KEYS)) ** 0.5)


def test_nothing_or_everything():
    assert not any(is_held_out("web", key, 0.0) for key in KEYS)
    assert all(is_held_out("web", key, 1.0) for key in KEYS)


def test_larger_share_contains_a_smaller_one():
    small, large = ({key for key in KEYS if is_held_out("web", key, share)} for share in (0.1, 0.3))
    assert small < large


def test_sources_have_images_of_their_own():
    first, second = ({key for key in KEYS if is_held_out(source, key, 0.1)} for source in ("a", "b"))
    assert len(first & second) < 0.3 * len(first)

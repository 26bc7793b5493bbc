"""Pixels that several models take from one decode of each image."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from capfilt.models.images import shared
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import to_pixels
from capfilt.models.images.shared import SharedPixels
from capfilt.models.tasks.placement import load_pixel_batches
from tests.stages.bootstrap.rows import encode_image

IMAGES = [encode_image(shade) for shade in (0, 40, 80, 120)]


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded, in their order."""
    calls = []

    def decode(image):
        calls.append(image)
        return decode_image(image)

    monkeypatch.setattr(shared, "decode_image", decode)
    return calls


def test_each_image_is_decoded_once_for_all_models(decoded):
    pixels = SharedPixels()
    pixels.add_models([16, 16])
    pixels.add_models([24])
    for size in (16, 16, 24):
        images = pixels.of_shard("web/000001", IMAGES)
        ours = torch.cat(list(load_pixel_batches(images, size, 3)))
        assert torch.equal(ours, torch.cat(list(load_pixel_batches(IMAGES, size, 3))))
    assert sorted(decoded) == sorted(IMAGES)


def test_equal_images_share_their_pixels_and_different_ones_never(decoded):
    pixels = SharedPixels()
    pixels.add_models([16, 16])
    twice = pixels.of_shard("web/000001", [IMAGES[0], IMAGES[0], IMAGES[1]])
    first, same, other = (image.load(16) for image in twice)
    assert first is same and not torch.equal(first, other) and len(decoded) == 2


def test_pixels_of_another_shard_are_dropped(decoded):
    pixels = SharedPixels()
    pixels.add_models([16, 24])
    for shard in ("web/000001", "web/000001", "web/000002", "web/000001"):
        (image,) = pixels.of_shard(shard, IMAGES[:1])
        image.load(16)
    assert len(decoded) == 3


def test_pixels_are_not_kept_for_a_single_model(decoded):
    pixels = SharedPixels()
    pixels.add_models([16])
    (image,) = pixels.of_shard("web/000001", IMAGES[:1])
    assert torch.equal(image.load(16), image.load(16)) and len(decoded) == 2


@pytest.mark.parametrize(("spare", "decodes"), [(0, 2), (-1, 4)])
def test_only_so_many_bytes_are_kept(decoded, spare, decodes):
    kept = sum(len(image) + 3 * 16 * 16 + 3 * 24 * 24 for image in IMAGES[:2])
    pixels = SharedPixels(kept + spare)
    pixels.add_models([16, 24])
    first, second, third = pixels.of_shard("web/000001", IMAGES[:3])
    for image in (first, second):
        image.load(16)
    for image in (second, first, second):
        assert torch.equal(image.load(24), to_pixels([decode_image(image.image)], 24))
    assert len(decoded) == decodes
    third.load(16)
    third.load(16)
    assert len(decoded) == decodes + 2, "there is no room for it"


def test_broken_image_is_an_error_every_time(decoded):
    pixels = SharedPixels()
    pixels.add_models([16, 24])
    (image,) = pixels.of_shard("web/000001", [IMAGES[0][:-30]])
    for size in (16, 24):
        with pytest.raises(ValueError, match="cannot decode the image"):
            image.load(size)
    assert len(decoded) == 2


def test_threads_share_the_pixels(decoded):
    pixels = SharedPixels()
    pixels.add_models([16, 24])
    images = pixels.of_shard("web/000001", IMAGES * 50)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda image: image.load(16), images))
    for image, found in zip(images, loaded, strict=True):
        assert torch.equal(found, to_pixels([decode_image(image.image)], 16))
    count = len(decoded)
    assert all(image.load(24) is not None for image in images) and len(decoded) == count
    assert pixels._used == sum(len(image) + 3 * 16 * 16 + 3 * 24 * 24 for image in IMAGES)


def test_copy_in_another_process_is_empty_and_the_same_for_all_who_are_sent_together(decoded):
    pixels = SharedPixels(12345)
    pixels.add_models([16, 24])
    pixels.of_shard("web/000001", IMAGES[:1])[0].load(16)
    first, second = pickle.loads(pickle.dumps((pixels, pixels)))
    assert first is second and first is not pixels
    assert (first.kept_bytes, first._sizes, first._kept) == (12345, [], {})

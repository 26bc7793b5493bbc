"""Small copies of images, inside a page of limited size."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from capfilt.models.images.decode import decode_image

THUMBNAIL_SIDES = (360, 240, 160, 96)
"""Longer side of an image on the page, pixels: the first with which all images fit."""
MAX_IMAGE_BYTES = 3_500_000
"""Bytes of all images on the page, encoded; the page has at most 5 MB. Images that do not fit in the smallest
size are left out."""

Place = tuple[str, str]
"""Source and key of an image."""
ReadImage = Callable[[str, str], bytes | None]
"""(source, key) → the stored image, encoded; None when there is none."""


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image."""

    uri: str
    """data: URI; "" when the image is left out to keep the page small."""
    is_pixelated: bool
    """The image is smaller than its card, and is shown enlarged without smoothing."""


Thumbnails = Mapping[Place, Thumbnail | None]
"""Thumbnail of each image; None when the image cannot be read."""


def encode_thumbnails(places: Sequence[Place], read_image: ReadImage) -> Thumbnails:
    """Thumbnails of images that together fit on the page.

    Args:
        places: the images, each as often as the page shows it.
        read_image: reads a stored image.
    """
    uses = Counter(places)
    found = {place: encode_thumbnail(read_image(*place)) for place in uses}
    for side in THUMBNAIL_SIDES[1:]:
        if sum(len(each.uri) * uses[place] for place, each in found.items() if each) <= MAX_IMAGE_BYTES:
            return found
        found = {place: each and _shrink(each, side) for place, each in found.items()}
    left = MAX_IMAGE_BYTES
    for place, each in found.items():
        left -= len(each.uri) * uses[place] if each else 0
        if each and left < 0:
            found[place] = replace(each, uri="")
    return found


def encode_thumbnail(data: bytes | None) -> Thumbnail | None:
    """Re-encode an image as a small data: URI, so that only its pixels reach the page.

    Returns:
        None when there is no data or the data is not an image.
    """
    if data is None:
        return None
    try:
        image = decode_image(data)
    except ValueError:
        return None
    is_small = max(image.size) <= THUMBNAIL_SIDES[0] // 2
    return _encode(image, THUMBNAIL_SIDES[0], is_pixelated=is_small)


def _shrink(thumbnail: Thumbnail, side: int) -> Thumbnail:
    image = decode_image(base64.b64decode(thumbnail.uri.partition("base64,")[2]))
    return _encode(image, side, is_pixelated=thumbnail.is_pixelated)


def _encode(image: Image.Image, side: int, *, is_pixelated: bool) -> Thumbnail:
    """A thumbnail with no longer side than `side`: PNG if its pixels are to be seen, else JPEG."""
    image.info.clear()  # Pillow would copy comments and color profiles into the new file
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind, options = ("png", {}) if is_pixelated else ("jpeg", {"quality": 82})
    sink = io.BytesIO()
    image.save(sink, kind, optimize=True, **options)
    encoded = base64.b64encode(sink.getvalue()).decode()
    return Thumbnail(f"data:image/{kind};base64,{encoded}", is_pixelated=is_pixelated)

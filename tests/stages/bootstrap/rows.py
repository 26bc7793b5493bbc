"""Batches of rows for captioning and filtering."""

import io

import pyarrow as pa
from PIL import Image

from capfilt.stages.rows import CAPTION_TYPE, ROW_SCHEMA, row_key, table_of, with_column


def encode_image(shade):
    """A gray image of 32 x 32 pixels as PNG."""
    sink = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(sink, "PNG")
    return sink.getvalue()


def make_batch(texts, *, failed=()):
    """A row for each list of texts; rows with a number in `failed` have no image."""
    rows = [
        {
            "key": row_key(0, number),
            "source": "web",
            "shard": 0,
            "url": f"http://a/{number}",
            "texts": of_row,
            "status": "http_404" if number in failed else "success",
            "error_message": "404 Not Found" if number in failed else None,
            "image": None if number in failed else encode_image(20 * number),
        }
        for number, of_row in enumerate(texts)
    ]
    return table_of(rows, ROW_SCHEMA)


def add_captions(batch, captions):
    """`batch` with the column `captions`: for each row its synthetic texts."""
    values = [
        [
            {"caption_index": index, "text": text, "seed": 7 + index, "logprob": -1.0}
            for index, text in enumerate(of_row)
        ]
        for of_row in captions
    ]
    return with_column(batch, "captions", values, pa.list_(CAPTION_TYPE))

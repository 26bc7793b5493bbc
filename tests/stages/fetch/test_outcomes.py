"""Where a row's image is, and the columns that fetching sets."""

import pyarrow as pa
import pytest

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.outcomes import (
    OUTCOME_COLUMNS,
    decode_outcome,
    fill_columns,
    locate_image,
    pending_rows,
)
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA
from capfilt.stages.status import Failure
from tests.stages.fetch.hostile_server import JPEG, make_batch

FOLDER = FetchConfig(image_root="/images")
WEB = FetchConfig(base_url="http://a.test/b")
WEB_FOLDER = FetchConfig(image_root="http://a.test/b")


@pytest.mark.parametrize(
    ("url", "config", "location"),
    [
        (" http://a.test/x ", FetchConfig(), ("http://a.test/x", True)),
        ("s3://a/x", FOLDER, ("s3://a/x", True)),  # the downloader rejects the scheme
        ("s3://a/x", FetchConfig(image_root="s3://a"), ("x", False)),
        ("s3://a/b/../../x", FetchConfig(image_root="s3://a/b/c"), ("s3://a/b/../../x", True)),
        ("http://b.test/x", FOLDER, ("http://b.test/x", True)),
        ("\ufeffhttp://a.test/x", FetchConfig(), ("http://a.test/x", True)),
        ("/images/a/x.jpg", FOLDER, ("a/x.jpg", False)),
        ("/images/../images/x.jpg", FOLDER, ("x.jpg", False)),
        ("file:///images/a%20b.jpg", FOLDER, ("a b.jpg", False)),
        ("/images/a%20b.jpg", FOLDER, ("a%20b.jpg", False)),
        ("/images/x.jpg", FetchConfig(image_root="file:///images/"), ("x.jpg", False)),
        ("a:b.jpg", FOLDER, ("a:b.jpg", False)),
        ("a\\b.jpg", FOLDER, ("a\\b.jpg", False)),
        ("x%2C.jpg", WEB, ("http://a.test/b/x%2C.jpg", True)),
        ("a/x y.jpg?s=1", WEB_FOLDER, ("http://a.test/b/a/x%20y.jpg?s=1", True)),
        ("a/../x.jpg", WEB_FOLDER, ("http://a.test/b/x.jpg", True)),
        ("/b/x.jpg", WEB_FOLDER, ("http://a.test/b/x.jpg", True)),
        ("x.jpg", WEB, ("http://a.test/b/x.jpg", True)),
        ("/x.jpg", WEB, ("http://a.test/x.jpg", True)),
        ("x.jpg", FOLDER, ("x.jpg", False)),
        ("a/../x.jpg", FOLDER, ("x.jpg", False)),
        ("..x.jpg", FOLDER, ("..x.jpg", False)),
        ("x" * 8_000, FOLDER, ("x" * 8_000, False)),
        ("a b~.jpg", FOLDER, ("a b~.jpg", False)),
    ],
)
def test_location(url: str, config: FetchConfig, location: tuple[str, bool]) -> None:
    assert locate_image(url, config) == location


@pytest.mark.parametrize(
    ("url", "config", "message"),
    [
        (None, FOLDER, "the row has no url"),
        (" ", FOLDER, "the row has no url"),
        ("x" * 8_001, FOLDER, "the url has 8001 characters, the limit is 8000"),
        ("a\x1fb", FOLDER, "control characters"),
        ("a\x7fb", FOLDER, "control characters"),
        ("x.jpg", FetchConfig(), "relative url 'x.jpg': set base_url or image_root"),
        ("/etc/passwd", FOLDER, "outside the image folder"),
        ("../x.jpg", FOLDER, "outside the image folder"),
        ("a/../../x.jpg", FOLDER, "outside the image folder"),
        ("..", FOLDER, "outside the image folder"),
        (".", FOLDER, "outside the image folder"),
        ("a/..", FOLDER, "outside the image folder"),
        ("/images", FOLDER, "outside the image folder"),
        ("/images2/x.jpg", FOLDER, "outside the image folder"),
        ("file:///etc/passwd", FOLDER, "outside the image folder"),
        ("file:///images/%2e%2e/etc/passwd", FOLDER, "outside the image folder"),
        ("s3://a/../x", FetchConfig(image_root="s3://a/"), "outside the image folder"),
        ("../x.jpg", WEB_FOLDER, "outside the image folder"),
        ("%2e%2e/x.jpg", WEB_FOLDER, "outside the image folder"),
        ("a/.%2E/..\\x.jpg", WEB_FOLDER, "outside the image folder"),
        ("/x.jpg", WEB_FOLDER, "outside the image folder"),
        ("//b.test/b/x.jpg", WEB_FOLDER, "outside the image folder"),
        ("a:b.jpg", WEB_FOLDER, "its scheme is a"),
    ],
)
def test_bad_url(url: str | None, config: FetchConfig, message: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        locate_image(url, config)
    assert caught.value.status == "bad_url"


def test_only_pending_rows_are_selected_and_filled() -> None:
    batch = pa.concat_tables([make_batch("a", status="success"), make_batch("b"), make_batch("c")])
    indices, rows = pending_rows(batch)
    assert indices == [1, 2]
    assert rows == [{"url": url, "error_message": None, "image": None} for url in "bc"]
    outcomes = [
        decode_outcome(JPEG, config=DecodeConfig(min_side=16), blocked=BlockList()),
        {"status": "dns"},
    ]
    filled = fill_columns(batch, indices, outcomes)
    assert filled.schema == ROW_SCHEMA.append(pa.field("received", pa.int64()))
    assert filled["received"].to_pylist() == [None, len(JPEG), None]
    assert filled["status"].to_pylist() == ["success", "success", "dns"]
    assert filled["width"].to_pylist() == [None, 64, None]
    others = [name for name in ROW_SCHEMA.names if name not in OUTCOME_COLUMNS]
    assert filled.select(others).equals(batch.select(others))

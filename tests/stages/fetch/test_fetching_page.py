"""docs/fetching.md says what the code does."""

import re
from pathlib import Path

from capfilt.stages.fetch.http import codings, connections, robots
from capfilt.stages.fetch.urls.exceptions import REFUSED_PORTS

PAGE = (Path(__file__).parents[3] / "docs/fetching.md").read_text(encoding="utf-8")
SECTION = " ".join(PAGE.partition("## What is requested and read")[2].partition("\n## ")[0].split())


def test_the_page_lists_the_refused_ports():
    (block,) = re.findall(r"```(.*?)```", SECTION)
    assert [int(port) for port in block.split(",")] == sorted(REFUSED_PORTS)


def test_the_page_names_each_coding():
    text = SECTION.partition("**Headers.**")[0]
    decoded, _, refused = text.partition("lists of up to")
    assert all(f"`{name}`" in decoded for name in codings._DECODERS)
    assert all(f"`{name}`" in refused for name in codings.NOT_SUPPORTED)


def test_the_page_states_the_limits():
    assert f"lists of up to {codings.MAX_CODINGS} of them" in SECTION
    assert f"a window of at most {2**codings.ZSTD_WINDOW_LOG >> 20} MB" in SECTION
    assert f"before decoding the body may have {codings.OVERHEAD_BYTES >> 10} KB more" in SECTION
    assert f"in pieces of {codings.PIECE_BYTES >> 10} KB" in SECTION
    assert f"cut at {robots.MAX_BYTES >> 10} KiB" in SECTION
    assert f"One header line may have {connections.MAX_HEADER_BYTES >> 10} KB" in SECTION
    assert f"all together {connections.MAX_HEAD_BYTES >> 10} KB" in SECTION

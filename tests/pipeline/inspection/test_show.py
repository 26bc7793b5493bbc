"""`capfilt show`: images with their texts of all rounds, by key or condition, as picture, lines or page."""

import base64
import io
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.inspection.images import find_where, read_image
from capfilt.pipeline.inspection.pictures import SIDE, encode_picture, find_protocol
from capfilt.stages.errors import UserError
from capfilt.stages.shards.commit import read_commit
from capfilt.stages.shards.records import encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import candidates_shard
from tests.pipeline.export import exported_run as made
from tests.pipeline.export.exported_run import image_of


def shown(run_dir, *words):
    return CliRunner().invoke(app, ["show", run_dir.store.url, *words])


@pytest.mark.parametrize(
    "condition", ["kept", "origin='web' and itm_prob > .5", "text like '%caption 1%'", "itm < .3"]
)
def test_a_condition_finds_what_duckdb_finds(made_run, condition):
    files = f"{made_run.store.url}/rounds/1/**/*.parquet"
    where = condition.replace("itm <", "itm_prob <")
    query = f"SELECT DISTINCT source, key FROM '{files}' WHERE {where} ORDER BY source, key"
    expected = duckdb.sql(query).fetchall()
    assert len(expected) > 3
    assert find_where(made_run, condition, 1000) == expected
    assert find_where(made_run, condition, 3) == expected[:3]


@pytest.mark.parametrize(
    "condition",
    [
        "no sql at all", "1", "kept; drop table rows", "kept) union all select 'a', 'b' from (select 1",
        "text in (select content from read_text('/etc/passwd'))", "exists (from '/etc/passwd')",
        "secret = 1", "random() < .5", "count(*) > 1", "",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_one_line(made_run, condition):
    result = shown(made_run, "--where", condition)
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1, result.output
    assert result.output.startswith("error: --where")


def test_a_condition_that_fails_on_a_row(made_run):
    with pytest.raises(UserError, match="fails on a candidate"):
        find_where(made_run, "cast(text as integer) > 1", 10)


def second_round(run_dir):
    """Candidates of a round 2, all dropped."""
    place, later = candidates_shard(1, "web", 0), candidates_shard(2, "web", 0)
    table = duckdb.sql(
        f"SELECT * REPLACE (2::INT AS round, false AS kept) FROM '{run_dir.store.url}/{place.parquet}'"
    ).to_arrow_table()
    run_dir.store.put(later.parquet, encode_parquet(table))
    run_dir.store.put(later.record, encode(read_commit(run_dir.store, place.record)))


def test_an_image_has_its_texts_of_every_round(made_run, monkeypatch):
    second_round(made_run)
    monkeypatch.setattr("capfilt.pipeline.inspection.images.bootstrapped_rounds", lambda run_dir: [1, 2])
    image = read_image(made_run, "web", "00000000001")
    assert [each["round"] for each in image.candidates] == [1] * 4 + [2] * 4
    assert {each["kept"] for each in image.candidates[4:]} == {False}
    result = shown(made_run, "web/00000000001")
    assert result.output.count("kept") == 4 and result.output.count("dropped") == 4
    assert f"{made_run.store.url}/images/web/000000.tar, member 00000000001" in result.output
    assert "https://host.test/web/0/1.jpg" in result.output


def test_a_key_alone_means_the_image_of_each_source(made_run):
    output = shown(made_run, "00000000000").output
    names = [f"{source}/00000000000" for source in ("human", "web", "more")]
    assert re.findall("image +(.*?) *\n", output) == names


def test_an_image_that_failed_says_why(made_run):
    assert "dns: no such host" in shown(made_run, "web/00000000005").output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cat.jpg"], "KEY cat.jpg: no key"),
        (["web/99999999999"], "no image of web has this key"),
        (["web/100000000000"], "no image of web has this key"),  # of shard 1,000,000
        (["web/9999999999"], "KEY web/9999999999: no key"),
        (["wob/00000000001"], "the run has no source wob; it has human, web, test, more"),
        (["00000000001", "--where", "kept"], "KEY and --where are given"),
    ],
)
def test_mistakes(made_run, words, message):
    result = shown(made_run, *words)
    assert result.exit_code == 2 and message in result.output


def test_nothing_meets_the_condition(made_run):
    result = shown(made_run, "--where", "itm > 2")
    assert (result.exit_code, result.output.strip()) == (0, "no image meets the condition")


def test_output_that_is_no_terminal_has_no_picture(made_run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert "\x1b" not in shown(made_run, "web/00000000001").output


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "dumb"}, None),
        ({}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
        ({"TERM": "screen.xterm-256color", "KITTY_WINDOW_ID": "1"}, None),
    ],
)
def test_pictures_only_for_terminals_that_are_known_to_show_them(environment, protocol):
    assert find_protocol(environment, is_terminal=True) == protocol
    assert find_protocol(environment, is_terminal=False) is None


def large_image():
    values = np.random.default_rng(0).integers(0, 255, (500, 900, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def test_kitty_s_chunks_make_the_picture():
    data = encode_picture(large_image(), "kitty")
    chunks = re.findall(rb"\x1b_G(.*?);(.*?)\x1b\\", data)
    assert chunks[0][0] == b"a=T,f=100,m=1" and chunks[-1][0] == b"m=0"
    assert {control for control, _ in chunks[1:-1]} == {b"m=1"}
    assert max(len(chunk) for _, chunk in chunks) <= 4096
    picture = Image.open(io.BytesIO(base64.b64decode(b"".join(chunk for _, chunk in chunks))))
    assert picture.size == (SIDE, 200)


def test_iterm_s_sequence_makes_the_picture():
    data = encode_picture(image_of("web", 0, 0), "iterm")
    found = re.fullmatch(rb"\x1b\]1337;File=inline=1;size=(\d+):(.*)\a\n", data)
    content = base64.b64decode(found[2])
    assert int(found[1]) == len(content) and Image.open(io.BytesIO(content)).size == (40, 30)


def test_sixel_s_bands_make_the_picture():
    pixels = np.zeros((8, 5, 3), np.uint8)
    pixels[2:, 3] = (255, 0, 0)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    text = encode_picture(sink.getvalue(), "sixel").decode()
    assert text.startswith('\x1bPq"1;1;5;8') and text.endswith("\x1b\\\n")
    colors = {n: tuple(map(int, c)) for n, *c in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", text)}
    drawn, body = np.full((12, 5, 3), -1), re.sub(r"#\d+;2;\d+;\d+;\d+", "", text[12:-3])
    for band, part in enumerate(body.split("-")[:-1]):
        for number, bits in re.findall(r"#(\d+)([^$#]+)\$", part):
            for x, bit in enumerate(bits):
                for row in range(6):
                    if (ord(bit) - 63) >> row & 1:
                        drawn[6 * band + row, x] = colors[number]
    assert np.array_equal(drawn[:8], np.round(pixels / 255 * 100).astype(int))


def test_a_page_shows_pictures_and_escapes_texts(made_run, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    original = made.candidate_rows
    script = {"text": "<script>x</script>"}
    monkeypatch.setattr(made, "candidate_rows", lambda *a: [row | script for row in original(*a)])
    made.write_candidates(made_run.store, "web", 0)
    result = shown(made_run, "web/00000000001", "--open")
    path = re.search(r"page +(\S+)", result.output)[1]
    assert opened == [f"file://{path}"]
    page = Path(path).read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert base64.b64encode(image_of("web", 0, 1)).decode() in page

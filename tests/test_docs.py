"""The generated pages of docs/ belong to the present sources."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config_keys import leaf_paths

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """(folder of pages written now, heavy packages that this needed)."""
    folder = tmp_path_factory.mktemp("docs")
    code = (
        f"import runpy, sys; sys.argv[1:] = [{str(folder)!r}]; "
        "runpy.run_path('docs/generate.py', run_name='__main__'); "
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return folder, done.stdout.strip()


@pytest.mark.parametrize("page", ["config.md", "cli.md"])
def test_page_is_up_to_date(generated, page):
    present, written = (ROOT / "docs" / page).read_text(), (generated[0] / page).read_text()
    assert present == written, "run `python docs/generate.py`"


def test_pages_are_written_without_ray_and_torch(generated):
    assert generated[1] == "[]"


def test_every_key_has_a_description():
    text = (ROOT / "docs/config.md").read_text()
    keys = set()
    for section in text.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        paths = re.findall("`(.*?)`", title) or [""]
        rows = [line.split(" | ") for line in lines if line.startswith("| `")]
        for name, value, default, description in rows:
            assert (value and default.strip()) or "section" in value, (title, name)
            assert description.removesuffix("|").strip(), (title, name)
            keys |= {f"{path}.{name.strip('| `')}".removeprefix(".") for path in paths}
    assert set(leaf_paths()) <= keys


def test_links_lead_to_headings():
    text = (ROOT / "docs/config.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#(.*?)\)", text))
    assert len(links) > 20 and links <= anchors

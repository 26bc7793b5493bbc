"""What the documentation names exists: links, files and folders, shipped configs."""

import re
from pathlib import Path

import pytest

from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.config.shipped import shipped_configs

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:pipeline|stages|models|cluster|configs|examples|tests|benchmarks|docs)/[\w./-]*)`")
IN_A_RUN = re.compile(r"models/(?:\w+\.\d+|tokenizer)/")
"""Folders of a run directory that begin like folders of the repository."""
TREE_LINE = re.compile(r"^( *)([\w./-]+) +\S", re.MULTILINE)


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {
        anchor(found) for found in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, place = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not place or place in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":  # describes files that have moved since
        return
    named = (name for name in PATH.findall(text) if not IN_A_RUN.match(name))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_tree_of_folders_is_that_of_the_repository():
    block = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## Folders")[2].split("```")[1]
    listed, parent = set(), ""
    for indent, name in TREE_LINE.findall(block):
        parent = parent if indent else name
        listed.add(f"{parent}{name}" if indent else name)
    found = set()
    for room in ("pipeline", "stages", "models", "cluster"):
        files = (
            path for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
        for path in files:
            folder = path.parent.relative_to(ROOT)
            found.add(f"{folder}/")
            if str(folder) == room and not path.name.startswith("__"):
                found.add(f"{room}/{path.name}")
    without_page = {f"pipeline/{room}/templates/" for room in ("ablation", "comparison", "report")}
    assert {
        name for name in listed if name.startswith(("pipeline", "stages", "models", "cluster"))
    } == found - without_page


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_are_valid(name):
    config = load_config(name)
    assert config.of_kind("web") or config.tasks

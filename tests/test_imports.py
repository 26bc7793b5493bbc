"""The arrows of the house: pipeline → stages → models, pipeline → cluster; ray in cluster alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "stages", "models", "cluster")
ALLOWED = {
    "pipeline": {"pipeline", "stages", "models", "cluster"},
    "stages": {"stages", "models"},
    "models": {"models"},
    "cluster": {"cluster"},
}
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_imports_only_rooms_below_it(path):
    room = path.relative_to(ROOT).parts[0]
    assert imported(path) & set(ROOMS) <= ALLOWED[room]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_cluster_imports_ray(path):
    if path.relative_to(ROOT).parts[0] != "cluster":
        assert "ray" not in imported(path)
    if path.relative_to(ROOT).parts[0] in ("models", "stages"):
        assert "pydantic" not in imported(path)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # A mistake in a config is told before Ray or torch is there.
        (
            "capfilt.pipeline.cli.app, capfilt.pipeline.config.load, capfilt.pipeline.prepare, capfilt.pipeline.errors",
            ("torch", "ray"),
        ),
        # The driver of a chain of given checkpoints, and the workers that fetch and write, hold no torch.
        (
            "capfilt.pipeline.execute, capfilt.pipeline.nodes.shards, capfilt.pipeline.maintenance.retry, capfilt.pipeline.evaluation.pretrained, capfilt.pipeline.nodes.report",
            ("torch",),
        ),
        (
            "capfilt.stages.fetch.stage, capfilt.stages.shards.write, capfilt.stages.shards.read, capfilt.stages.shards.retry, capfilt.stages.pairs.read",
            ("torch", "ray"),
        ),
    ],
)
def test_light_modules_import_nothing_heavy(modules, heavy):
    code = f"import sys, {modules}; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"

"""The rooms of the house: what each may import, that no imports run in a circle, and how large a room may be.

pipeline → stages → models, pipeline → cluster; only cluster imports ray. A folder counts as one unit, and so does each
file directly under pipeline/, stages/, models/ and cluster/. Imports for type checkers only do not count.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
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
MODULES = {".".join(("capfilt", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
FILES_PER_FOLDER = 12
LINES_PER_FILE = 320


def imports(path: Path) -> set[str]:
    """Modules that a file imports, inside functions too; not those for type checkers only."""
    names: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                self.generic_visit(node)

        def visit_Import(self, node):
            names.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node):
            assert node.level == 0 and node.module, "relative import"
            # `from package import module` names a module too.
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})

    Visitor().visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def own_rooms(module: str) -> set[str]:
    """Our packages that a module imports."""
    return {name.split(".")[1] for name in IMPORTS[module] if name.startswith("capfilt.")} & set(ROOMS)


def unit(module: str) -> str:
    """The folder of a module; a file directly under a room is a unit of its own."""
    folder = module.rpartition(".")[0]
    return module if folder.count(".") == 1 else folder


def circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_rooms_below_it(module):
    room = module.split(".")[1]
    assert own_rooms(module) <= ALLOWED[room]
    assert not {name for name in IMPORTS[module] if name.split(".")[0] in (*ROOMS, "tests", "benchmarks")}


@pytest.mark.parametrize("module", MODULES)
def test_only_cluster_imports_ray(module):
    libraries = {name.split(".")[0] for name in IMPORTS[module]}
    if module.split(".")[1] != "cluster":
        assert "ray" not in libraries
    if module.split(".")[1] in ("models", "stages"):
        assert "pydantic" not in libraries


def test_no_imports_run_in_a_circle():
    own = {name: IMPORTS[name] & set(MODULES) - {name} for name in MODULES}
    assert circle(own) == []
    units: dict[str, set[str]] = {}
    for name, found in own.items():
        units.setdefault(unit(name), set()).update({unit(each) for each in found} - {unit(name)})
    assert circle(units) == []


def test_no_folder_and_no_file_is_too_large():
    folders: dict[Path, int] = {}
    for path in FILES:
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > FILES_PER_FOLDER} == {}
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > LINES_PER_FILE} == {}


def test_every_folder_introduces_itself():
    """Its `__init__.py` is a docstring of 3 to 6 lines, and nothing else."""
    for path in FILES:
        if path.name != "__init__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        text = ast.get_docstring(tree)
        assert text is not None and len(tree.body) == 1, path
        assert 3 <= len(text.splitlines()) <= 6, path


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # A mistake in a config is reported before Ray or torch is imported.
        (
            "pipeline.cli.app, pipeline.config.load, pipeline.plan, pipeline.prepare, pipeline.errors, "
            "pipeline.nodes.report",
            ("torch", "ray"),
        ),
        # The driver of a chain of given checkpoints, and the workers that fetch and write, hold no torch.
        (
            "pipeline.execute, pipeline.nodes.shards, pipeline.maintenance.retry, pipeline.evaluation.pretrained, "
            "pipeline.nodes.chain",
            ("torch",),
        ),
        (
            "stages.fetch.stage, stages.shards.write, stages.shards.read, stages.shards.retry, stages.pairs.read",
            ("torch", "ray"),
        ),
    ],
)
def test_light_modules_import_nothing_heavy(modules, heavy):
    names = ", ".join(f"capfilt.{name}" for name in modules.split(", "))
    code = f"import sys, {names}; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"

"""The structure of the package: which folder may import which, no circular imports, and limits of size.

pipeline → stages → models, pipeline → cluster; only cluster imports ray. A folder counts as one unit, and so
does each file directly under pipeline/, stages/, models/ and cluster/. Imports that only a type checker sees
do not count.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "stages", "models", "cluster")
ALLOWED = {
    "pipeline": {"pipeline", "stages", "models", "cluster"},
    "stages": {"stages", "models"},
    "models": {"models"},
    "cluster": {"cluster"},
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {".".join(("capfilt", *path.relative_to(ROOT).with_suffix("").parts)): path for path in FILES}
FILES_PER_FOLDER = 12
LINES_PER_FILE = 320


def imports(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions, except imports that only a type checker sees."""
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


def own_packages(module: str) -> set[str]:
    """Top-level folders of the package that a module imports from."""
    return {name.split(".")[1] for name in IMPORTS[module] if name.startswith("capfilt.")} & set(PACKAGES)


def unit(module: str) -> str:
    """The folder of a module; a file directly under a top-level folder is a unit of its own."""
    folder = module.rpartition(".")[0]
    return module if folder.count(".") == 1 else folder


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in the graph of imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_allowed_packages_and_nothing_from_tests(module):
    package = module.split(".")[1]
    assert own_packages(module) <= ALLOWED[package]
    assert not {name for name in IMPORTS[module] if name.split(".")[0] in (*PACKAGES, "tests", "benchmarks")}


@pytest.mark.parametrize("module", MODULES)
def test_only_cluster_imports_ray(module):
    libraries = {name.split(".")[0] for name in IMPORTS[module]}
    if module.split(".")[1] != "cluster":
        assert "ray" not in libraries
    if module.split(".")[1] in ("models", "stages"):
        assert "pydantic" not in libraries


def test_there_are_no_circular_imports():
    own = {name: IMPORTS[name] & set(MODULES) - {name} for name in MODULES}
    assert circle(own) == []
    units: dict[str, set[str]] = {}
    for name, found in own.items():
        units.setdefault(unit(name), set()).update({unit(each) for each in found} - {unit(name)})
    assert circle(units) == []


def test_folders_and_files_are_not_too_large():
    folders: dict[Path, int] = {}
    for path in FILES:
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > FILES_PER_FOLDER} == {}
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > LINES_PER_FILE} == {}


def test_every_folder_has_a_docstring_of_3_to_6_lines_and_no_code_in_its_init_file():
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
            "pipeline.nodes.report, pipeline.rundir.generations, pipeline.maintenance.repair, "
            "pipeline.console.progress, pipeline.console.signals, pipeline.console.summary, "
            "pipeline.preflight.check, pipeline.testset.evaluate, pipeline.testset.results",
            ("torch", "ray"),
        ),
        # The driver of a run that trains nothing needs no torch.
        (
            "pipeline.execute, pipeline.nodes.shards, pipeline.maintenance.retry, "
            "pipeline.evaluation.pretrained, pipeline.nodes.chain",
            ("torch",),
        ),
        # Nor do the workers that fetch, read and write.
        (
            "stages.fetch.stage, stages.shards.write, stages.shards.read, stages.shards.retry, "
            "stages.pairs.read",
            ("torch", "ray"),
        ),
    ],
)
def test_modules_load_neither_ray_nor_torch_before_they_need_them(modules, heavy):
    names = ", ".join(f"capfilt.{name}" for name in modules.split(", "))
    code = f"import sys, {names}; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"

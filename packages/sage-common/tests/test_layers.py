"""The packages' arrows, read from the imports of their sources."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2]
SOURCES = sorted(PACKAGES.glob("*/src/**/*.py"))

MAY_IMPORT = {
    "common": {"common"},
    "core": {"common"},  # which only says that it is no more
    "kernel": {"kernel", "common"},
    "middleware": {"middleware", "kernel", "common"},
    "libs": {"libs", "kernel", "common"},
    "tuning": {"tuning", "common"},
    "tools": {"tools", "libs", "middleware", "kernel", "common"},
}
LAZY = {"vllm", "torch", "transformers", "sentence_transformers", "ray", "lancedb", "openai"}
LAZY |= {"pyarrow", "trl", "peft", "accelerate", "datasets"}
IN_ONE_FOLDER = LAZY - {"transformers", "pyarrow"}  # Parquet files and vector memory are two things
# Training and the fork server need them throughout; they are themselves imported only when the
# demo model is made, and in the process from which engines are forked.
EAGER_BY_DESIGN = {
    "tools/demo_model/training.py": "sage.tools.demo_model.training",
    "tuning/training/trainers.py": "sage.tuning.training.trainers",
    "common/components/sage_vllm/backend/fork_server.py": (
        "sage.common.components.sage_vllm.backend.fork_server"
    ),
}


LONGEST_MODULE, LONGEST_CLASS, LARGEST_FOLDER = 350, 250, 14  # lines, lines, modules


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGES).parts[3]


def short(path: Path) -> str:
    return "/".join(path.relative_to(PACKAGES).parts[3:])


def room_of(path: Path) -> str:
    """Return the folder of a module; of one in a room of the engine's, that of the engine."""
    before, engine, _ = short(path.parent).partition("/sage_vllm/backend")
    return before + engine


def modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [str(name.value) for name in node.args if isinstance(name, ast.Constant)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(path: Path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in modules(node)}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGES).with_suffix("").parts[2:]).removesuffix(".__init__")


def imports_at_import(path: Path) -> Iterator[str]:
    """Yield what is imported when the module is: not in a function, not for type checkers only."""
    return imports_but_for_types(path, functions=False)


def imports_but_for_types(path: Path, *, functions: bool = True) -> Iterator[str]:
    """Yield what the module imports as it runs, in its functions too unless those are left out."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        yield from modules(node)
        if not functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)


def test_there_are_sources_to_look_at() -> None:
    assert {package_of(path) for path in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_imports_follow_the_arrows(path: Path) -> None:
    imported = {name.split(".")[1] for name in imports(path) if name.startswith("sage.")}
    assert imported <= MAY_IMPORT[package_of(path)]


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_engine_or_its_libraries_are_loaded_at_import(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports_at_import(path)} & LAZY
    assert not loaded or short(path) in EAGER_BY_DESIGN
    assert not set(EAGER_BY_DESIGN.values()) & set(imports_at_import(path))


def test_each_engine_or_store_is_imported_in_one_folder() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for path in SOURCES:
        for name in {name.split(".")[0] for name in imports(path)} & IN_ONE_FOLDER:
            importers[name].add(room_of(path))
    assert importers["vllm"] == {"common/components/sage_vllm/backend"}
    importers["torch"] -= {"tools/demo_model", "tuning/training"}  # which train, and serve nothing
    assert {name: files for name, files in importers.items() if len(files) > 1} == {}


def test_sage_is_a_namespace_that_no_package_owns() -> None:
    assert list(PACKAGES.glob("*/src/sage/__init__.py")) == []


def test_every_package_is_typed() -> None:
    typed = {path.parent.name for path in PACKAGES.glob("*/src/sage/*/py.typed")}
    assert typed == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            assert (node.end_lineno or 0) - node.lineno <= LONGEST_CLASS, node.name


def test_a_folder_is_seen_at_a_glance() -> None:
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {
        short(folder): count for folder, count in counts.items() if count > LARGEST_FOLDER
    } == {}


def test_no_imports_go_in_a_circle() -> None:
    """What a function imports when it runs counts too; what only a type checker reads does not."""
    homes = {module_name(path): path for path in SOURCES}
    arrows = {
        name: {
            target
            for imported in imports_but_for_types(path)
            if (target := imported if imported in homes else imported.rpartition(".")[0]) in homes
        }
        - {name}
        for name, path in homes.items()
    }
    left = dict(arrows)
    while ready := {name for name, targets in left.items() if not targets & left.keys()}:
        for name in ready:
            del left[name]
    # What is left goes in circles, or leads into one.
    while leads := {name for name in left if not any(name in left[other] for other in left)}:
        for name in leads:
            del left[name]
    assert sorted(left) == []

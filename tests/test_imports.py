"""Imports point one way: a later room may import an earlier one, never the reverse."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tfcompress"

# `deploy` stands before the loop, which measures latency. `files` (writing whole
# files) and `metric` (what a figure is called) import no other room.
ROOMS = (
    "errors",
    "files",
    "metric",
    "_lazy",
    "spec",
    "linalg",
    "layers",
    "trace",
    "cost",
    "ranks",
    "surgery",
    "statistics",
    "data",
    "models",
    "distill",
    "sensitivity",
    "deploy",
    "musco",
    "quantize",
    "tasks",
    "stages",
    "recipe",
    "progress",
    "plots",
    "evidence",
    "report",
    "page",
    "events",
    "runner",
    "lineage",
    "tfx",
    "cli",
)
# Only `quantize` may know them: importing tfmot turns the process to Keras 2.
LEGACY = ("tf_keras", "tensorflow_model_optimization")


def modules():
    return sorted(ROOT.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def runtime_nodes(node):
    """All nodes, function bodies included, but not what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for other in child.orelse:
                yield other
                yield from runtime_nodes(other)
            continue
        yield child
        yield from runtime_nodes(child)


def imported(source, module, *, package):
    """`(line, name)` of everything a module's source imports, at any depth."""
    found = []
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + package]
                base = ".".join([*parts, base] if base else parts)
            # `from tfcompress import data` names the room only in the alias.
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            name = node.args[0]
            literal = isinstance(name, ast.Constant) and isinstance(name.value, str)
            if called in ("importlib.import_module", "__import__") and literal:
                found.append((node.lineno, name.value))
    return found


def room_of(name):
    parts = name.split(".")
    own = parts[0] == "tfcompress" and len(parts) > 1
    return parts[1] if own and parts[1] in ROOMS else None


def breaches(source, module, *, package=False):
    """Imports in a module's source that point the wrong way."""
    room = module.split(".")[1]
    wrong = []
    for line, name in imported(source, module, package=package):
        other = room_of(name)
        if other is not None and ROOMS.index(other) > ROOMS.index(room):
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def test_every_module_stands_in_a_known_room():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert rooms - {"__init__", "__pycache__"} <= set(ROOMS)


@pytest.mark.parametrize(
    "path", [p for p in modules() if p != ROOT / "__init__.py"], ids=module_name
)
def test_imports_point_one_way(path):
    package = path.name == "__init__.py"
    assert not breaches(path.read_text(), module_name(path), package=package)


def test_the_package_itself_imports_only_lazily():
    """`import tfcompress` must stay light: the finder alone names the layers."""
    source = (ROOT / "__init__.py").read_text()
    names = {name for _, name in imported(source, "tfcompress", package=True)}
    own = {name for name in names if name.startswith("tfcompress")}
    assert own == {"tfcompress._lazy.lazy", "tfcompress.layers"}


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_only_quantize_knows_legacy_keras(path):
    module = module_name(path)
    package = path.name == "__init__.py"
    names = [n for _, n in imported(path.read_text(), module, package=package)]
    legacy = [name for name in names if name.split(".")[0] in LEGACY]
    assert not legacy or module.startswith("tfcompress.quantize")


def test_linalg_knows_no_framework():
    for path in (ROOT / "linalg").glob("*.py"):
        names = [n for _, n in imported(path.read_text(), module_name(path), package=0)]
        roots = {name.split(".")[0] for name in names}
        assert roots - sys.stdlib_module_names <= {"numpy", "scipy", "tfcompress"}


@pytest.mark.parametrize(
    "source",
    [
        "import tfcompress.cli",
        "from tfcompress.stages import base",
        "from tfcompress import runner",
        "from ..report import table",
        "def f():\n    from tfcompress.musco import compress",
        "import importlib\nimportlib.import_module('tfcompress.cost')",
        "try:\n    import tfcompress.data\nexcept ImportError:\n    pass",
    ],
)
def test_the_check_sees_every_form(source):
    assert len(breaches(source, "tfcompress.layers.base")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from tfcompress import __version__",
        "from tfcompress.linalg import tucker2",
        "from .registry import register",
        "import typing\nif typing.TYPE_CHECKING:\n    import tfcompress.cli",
    ],
)
def test_the_check_lets_pass(source):
    assert breaches(source, "tfcompress.layers.base") == []

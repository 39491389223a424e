"""Every public function and class is documented, and its examples are true."""

import ast
import doctest
import importlib
import inspect
import re
import shutil
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from docs.public import PACKAGES, public_names

HEADING = r"^(Args|Attributes|Returns|Yields|Raises|Reference|Example):"
REPORT = Path("saved_models/digits/report.json").resolve()


def names_of(package):
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}


# What two packages export is one case: "module.name" -> (package, thing).
PUBLIC = {
    path: (package, names_of(package)[name])
    for package in PACKAGES
    for name, path in public_names(package).items()
}
each = pytest.mark.parametrize("path", sorted(PUBLIC))


def own_source(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def sections(thing):
    """Heading -> text of a docstring in Google's style; the text above is under ''.

    Read from the source, as the API reference does.
    """
    text = ast.get_docstring(own_source(thing)) or ""
    parts = re.split(HEADING, text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def is_error(thing):
    return inspect.isclass(thing) and issubclass(thing, BaseException)


def arguments(thing):
    """Names that a call takes."""
    if is_error(thing):
        return set()
    # Keras hides the arguments of its classes behind `__new__`.
    has_init = inspect.isclass(thing) and thing.__init__ is not object.__init__
    taken = set(inspect.signature(thing.__init__ if has_init else thing).parameters)
    return {name for name in taken - {"self"} if not name.startswith("_")}


def explained(thing):
    """Arguments that have an entry, or stand in backticks in the text above."""
    text = sections(thing)
    entries = text.get("Args", "") + text.get("Attributes", "")
    # "    name: ..." or "    first, second: ..."
    heads = re.findall(r"^ {4}([\w*]+(?:, [\w*]+)*):", entries, flags=re.MULTILINE)
    entered = {name.strip("*") for head in heads for name in head.split(", ")}
    return entered | set(re.findall(r"`(\w+)`", text[""]))


def raises(node):
    """Whether a body holds a `raise`, the functions within it aside."""
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    return any(
        isinstance(child, ast.Raise) or (not isinstance(child, inner) and raises(child))
        for child in ast.iter_child_nodes(node)
    )


def bodies(thing):
    """Our code that runs when a function is called, or an instance is made."""
    if not inspect.isclass(thing):
        return [own_source(thing)]
    ours = [cls for cls in thing.__mro__ if cls.__module__.startswith("tfcompress")]
    return [
        node
        for cls in ours
        for node in own_source(cls).body
        if getattr(node, "name", "") in ("__init__", "__post_init__")
    ]


@each
def test_says_what_it_is(path):
    assert sections(PUBLIC[path][1])[""].strip()


@each
def test_explains_its_arguments(path):
    thing = PUBLIC[path][1]
    assert arguments(thing) - explained(thing) == set()


@each
def test_names_its_errors(path):
    thing = PUBLIC[path][1]
    if any(map(raises, bodies(thing))):
        assert "Raises" in sections(thing)


@each
def test_has_an_example(path):
    thing = PUBLIC[path][1]
    if not is_error(thing):
        assert ">>> " in sections(thing).get("Example", "")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What examples take for granted: a model, data, and files of them in a folder."""
    folder = tmp_path_factory.mktemp("given")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    model.save(folder / "model.keras")
    tfcompress.export_tflite(model, folder / "model.tflite")
    (folder / "runs/digits").mkdir(parents=True)
    shutil.copy(REPORT, folder / "runs/digits/report.json")
    random = np.random.default_rng(0)
    images = random.random((32, 8, 8, 1), dtype=np.float32)
    labels = random.integers(0, 10, 32)
    names = {"np": np, "keras": keras, "tf": tf, "tfcompress": tfcompress}
    names |= {"model": model, "images": images, "labels": labels}
    names |= {"teacher": model, "student": keras.models.clone_model(model)}
    return folder, names


@each
def test_examples_run(path, given, tmp_path, monkeypatch):
    """The examples of a class's methods too."""
    package, thing = PUBLIC[path]
    folder, names = given
    for other in (*PACKAGES, package):
        names = names | names_of(other)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    said = []
    for found in doctest.DocTestFinder().find(thing, thing.__name__, globs=names):
        keras.utils.set_random_seed(0)
        # Names of layers count up over all tests of the process.
        keras.backend.clear_session(free_memory=False)
        runner.run(found, out=said.append)
    assert not said, "".join(said)

"""Runs a recipe on this machine: artefacts in folders, resume, progress.

A stage works in `NN-name.partial`, which becomes `NN-name` in one rename when it is
done. Whatever a killed run leaves behind is therefore either whole or thrown away, and
a stage reads its inputs from files alone: resumed and uninterrupted runs end the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import yaml
from filelock import FileLock, Timeout

from tfcompress import __version__
from tfcompress.data import Dataset, load_dataset
from tfcompress.errors import RunFolderError
from tfcompress.events import EVENTS, stage_events
from tfcompress.files import content_hash, file_hash, write_atomically
from tfcompress.recipe import Recipe
from tfcompress.report import write_report
from tfcompress.stages import Context, Stage

# In an unfinished stage's folder: which stage it is of, with all that it depends on.
_KEY = "stage.key"


class Display(Protocol):
    """Shows where a run is (see `tfcompress.progress`)."""

    def start(self, index: int, count: int, name: str, *, done: bool) -> None: ...

    def update(self, done: float, total: int, figures: dict[str, float]) -> None: ...

    def finish(self, name: str, seconds: float) -> None: ...


class Silent:
    """A display that shows nothing."""

    def start(self, index: int, count: int, name: str, *, done: bool) -> None:
        pass

    def update(self, done: float, total: int, figures: dict[str, float]) -> None:
        pass

    def finish(self, name: str, seconds: float) -> None:
        pass


def run_recipe(
    recipe: Recipe, folder: str | Path, *, display: Display | None = None
) -> dict[str, Any]:
    """Runs a recipe, or goes on with it where an earlier run stopped.

    Everything that can be known to be wrong is checked before anything is written.

    Args:
        recipe: what to do.
        folder: the run folder; made where it does not exist. Nothing is written
            outside it.
        display: shows progress.

    Returns:
        The report as plain data; `report.json` and `report.md` hold the same.

    Raises:
        RunFolderError: the folder cannot be written, belongs to another recipe, or
            another run is using it.
        TfcompressError: the data, a model or an option is wrong.
    """
    folder = Path(folder)
    display = display or Silent()
    _check_folder(folder, recipe)
    data = load_dataset(recipe.dataset)
    for stage in recipe.stages:
        stage.check(data)
    with _locked(folder):
        _check_folder(folder, recipe)
        _write_identity(folder, recipe)
        seed_everything(recipe.seed)
        results = _run_stages(recipe, folder, data, display)
        return write_report(recipe, data, results, folder)


def _run_stages(
    recipe: Recipe, folder: Path, data: Dataset, display: Display
) -> list[dict[str, Any]]:
    artefacts: dict[str, Path] = {}
    results = []
    key = hashlib.sha256(f"{__version__} {data.fingerprint}".encode()).hexdigest()
    count = len(recipe.stages)
    for index, stage in enumerate(recipe.stages, start=1):
        place = folder / f"{index:02d}-{stage.name}"
        key = _stage_key(key, stage, recipe.seed)
        result = _finished(place, key)
        display.start(index, count, stage.name, done=result is not None)
        if result is None:
            result = _run_stage(stage, place, key, artefacts, recipe, data, display)
        results.append(result)
        artefacts |= {name: place / file for name, file in result["artefacts"].items()}
    return results


def _run_stage(
    stage: Stage,
    place: Path,
    key: str,
    artefacts: dict[str, Path],
    recipe: Recipe,
    data: Dataset,
    display: Display,
) -> dict[str, Any]:
    partial = place.with_name(place.name + ".partial")
    for leftover in (partial, place):
        if leftover.exists() and not _is_of(leftover, key):
            shutil.rmtree(leftover)
    # What a stopped run of this very stage left is there for the stage to go on from.
    resumed = partial.exists()
    partial.mkdir(exist_ok=True)
    (partial / _KEY).write_text(key)
    seed = stage_seed(recipe.seed, stage.name)
    place_of_events = place.parent / EVENTS / place.name
    with stage_events(place_of_events, resumed=resumed) as events:
        events.views(stage, data, seed)
        # After the views: what they drew is forgotten.
        seed_everything(seed)
        started = time.perf_counter()

        def progress(done: float, total: int, figures: dict[str, float]) -> None:
            events.progress(done, figures)
            display.update(done, total, figures)

        context = Context(folder=partial, data=data, seed=seed, progress=progress)
        made, figures = stage.run(artefacts, context)
        seconds = time.perf_counter() - started
        events.figures(figures)
    result = {
        "stage": stage.name,
        "key": key,
        "artefacts": {name: path.name for name, path in made.items()},
        "files": {name: file_hash(path) for name, path in made.items()},
        "hashes": {name: content_hash(path) for name, path in made.items()},
        # For `tfcompress lineage`: what it was made of, also once that is made anew.
        "inputs": {name: content_hash(path) for name, path in artefacts.items()},
        "data_fingerprint": data.fingerprint,
        "tfcompress": __version__,
        "figures": figures,
        "seconds": round(seconds, 3),
    }
    (partial / _KEY).unlink()
    write_atomically(partial / "result.json", json.dumps(result, indent=1))
    os.replace(partial, place)
    display.finish(stage.name, seconds)
    return result


def _is_of(folder: Path, key: str) -> bool:
    """Whether a folder holds the unfinished work of a stage with this key."""
    file = folder / _KEY
    return file.is_file() and file.read_text() == key


def _finished(place: Path, key: str) -> dict[str, Any] | None:
    """The stored result of a stage, if it is whole and of this very stage."""
    try:
        result = json.loads((place / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    if result.get("key") != key:
        return None
    for name, file in result["artefacts"].items():
        path = place / file
        if not path.is_file() or file_hash(path) != result["files"][name]:
            return None
    return result


def _stage_key(previous: str, stage: Stage, seed: int) -> str:
    """Hash of all that a stage's result depends on."""
    parts = {
        "previous": previous,
        "stage": stage.name,
        "fields": dataclasses.asdict(stage),
        "seed": seed,
        "files": [file_hash(path) for path in stage.sources()],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_folder(folder: Path, recipe: Recipe) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"Run folder '{folder}' is a file: choose another one.")
    identity = folder / "run.json"
    if identity.is_file():
        try:
            known = json.loads(identity.read_text()).get("recipe")
        except (json.JSONDecodeError, AttributeError, UnicodeDecodeError):
            known = None
        if known != recipe.digest():
            raise RunFolderError(
                f"Run folder '{folder}' belongs to another recipe or other options: "
                "choose another one with --output, or remove it."
            )
    elif folder.is_dir() and any(p.name != ".lock" for p in folder.iterdir()):
        raise RunFolderError(
            f"Folder '{folder}' is not empty and no run folder: choose another one "
            "with --output."
        )
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise RunFolderError(f"Run folder '{folder}' cannot be written: no permission.")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise RunFolderError(
            f"Run folder '{folder}' is in use by another run: wait for it, or choose "
            "another one with --output."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(
            f"Run folder '{folder}' cannot be written: {reason}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _write_identity(folder: Path, recipe: Recipe) -> None:
    if (folder / "run.json").is_file():
        return
    text = yaml.safe_dump(recipe.to_dict(), sort_keys=False)
    write_atomically(folder / "recipe.yaml", text)
    identity = {"recipe": recipe.digest(), "tfcompress": __version__}
    write_atomically(folder / "run.json", json.dumps(identity, indent=1))


def stage_seed(seed: int, name: str) -> int:
    """The seed of a stage: it does not depend on the stages before it."""
    return zlib.crc32(f"{seed}/{name}".encode()) % 2**31


def seed_everything(seed: int) -> None:
    """What a stage starts from: fresh names of layers, and these random numbers."""
    import keras
    import tensorflow as tf

    # Names of layers count up within a session; a resumed run starts from none.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if tf.config.list_physical_devices("GPU"):
        # CPU kernels are deterministic as they are, and this would switch XLA off.
        tf.config.experimental.enable_op_determinism()

"""The model that is asked about, and which of a run's files it is."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tfcompress.errors import ModelFileError
from tfcompress.files import content_hash
from tfcompress.lineage.record import LineageError

# What a Model artefact of TFX, or a folder that Pusher filled, holds.
ARTEFACT_FILES = ("Format-Keras/model.keras", "Format-Serving/tflite")
_IN_FOLDERS = (*ARTEFACT_FILES, "tflite")
_TFLITE_MARK = b"TFL3"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model file.

    Attributes:
        path: the file.
        tflite: whether it is a `.tflite` file, and not a `.keras` file.
        sha256: its content hash (see `tfcompress.files.content_hash`).

    Example:
        >>> open_subject("model.tflite").tflite, open_subject("model.keras").tflite
        (True, False)
    """

    path: Path
    tflite: bool
    sha256: str


@dataclasses.dataclass(frozen=True)
class Match:
    """Which of a run's files a model is.

    Attributes:
        file: that of the run.
        exported: the model was exported from it outside the run, and is not it.
        note: what a reader should know, or None.
    """

    file: Path
    exported: bool = False
    note: str | None = None


def open_subject(model: str | Path) -> Subject:
    """A model file by its path.

    Args:
        model: a `.keras` file, a `.tflite` file (also one by another name), a Model
            artefact of TFX, or a folder that Pusher has put a `.tflite` file into.

    Raises:
        ModelFileError: no such file, or no model.

    Example:
        >>> open_subject("model.keras").path
        PosixPath('model.keras')
    """
    path = Path(model)
    if path.is_dir():
        found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
        if not found:
            raise ModelFileError(
                f"Folder '{path}' is no model artefact with a Keras model or a .tflite "
                f"file (none of {', '.join(_IN_FOLDERS)}): give a .keras or .tflite "
                "file."
            )
        path = found[0]
    if not path.is_file():
        raise ModelFileError(f"There is no model file '{path}'.")
    try:
        with path.open("rb") as file:
            tflite = file.read(8)[4:] == _TFLITE_MARK
    except OSError as error:
        raise ModelFileError(
            f"Model file '{path}' cannot be read: {error.strerror}."
        ) from error
    if not tflite and not (path.suffix == ".keras" and _holds_keras(path)):
        raise ModelFileError(f"'{path}' is neither a .keras nor a .tflite file.")
    return Subject(path, tflite, content_hash(path))


def _holds_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def match_by_contents(
    subject: Subject, made: Mapping[Path, str], *, where: str
) -> Match:
    """Finds a model that is none of a run's files byte for byte.

    A `.tflite` file tells what it computed when it was exported, and from which
    weights: a copy with other metadata is found by the first, a file that was exported
    by hand from a model of the run by the second.

    Args:
        subject: the model.
        made: files of the run, where they are there, and their content hashes.
        where: what errors call the run.

    Raises:
        LineageError: the run made neither; or the file was changed since export.
    """
    missing = LineageError(
        f"'{subject.path}' is not a model that {where} made: none of the "
        f"{len(made)} there has its content SHA-256 {subject.sha256}. It is of another "
        "run, or was changed since."
    )
    if not subject.tflite:
        raise missing
    # They import Keras, which takes seconds.
    from tfcompress.deploy.inspection import inspect_tflite
    from tfcompress.deploy.metadata import content_hash as computed

    said = inspect_tflite(subject.path).metadata or {}
    own = computed(subject.path.read_bytes())
    if said.get("content_sha256", own) != own:
        raise LineageError(
            f"'{subject.path}' was changed after its export: it says that it holds "
            f"{said['content_sha256']}, but holds {own}. It is not the model that a "
            "run made."
        )
    whole = [path for path, sha256 in made.items() if _is_still(path, sha256)]
    for path in whole:
        if path.suffix != ".keras" and computed(path.read_bytes()) == own:
            return Match(
                path,
                note="the run's file computes the same; only what it says of itself "
                "differs",
            )
    if "model_sha256" in said:
        for path in whole:
            if path.suffix == ".keras" and _weights(path) == said["model_sha256"]:
                return Match(path, exported=True)
    raise missing


def _is_still(path: Path, sha256: str) -> bool:
    return path.is_file() and content_hash(path) == sha256


def _weights(path: Path) -> str:
    from tfcompress.deploy.metadata import model_hash
    from tfcompress.stages import load_model

    return model_hash(load_model(path))


def refuse_changed(subject: Subject, path: Path, sha256: str, *, where: str) -> None:
    """Raises where the model lies where a run put one, but is not that.

    Args:
        subject: the model.
        path: where the run put a file.
        sha256: the content hash that it had.
        where: what errors call the run.

    Raises:
        LineageError: it was changed after the run.
    """
    if path.resolve() == subject.path.resolve() and sha256 != subject.sha256:
        raise LineageError(
            f"'{subject.path}' was changed after {where} had made it: its content "
            f"SHA-256 is {subject.sha256}, that of the run's model {sha256}."
        )

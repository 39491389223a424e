"""The stage interface: one frozen dataclass, one method, files in and files out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tfcompress.errors import ModelFileError, OptionError, nearest

if TYPE_CHECKING:
    import keras

    from tfcompress.data import Dataset

Progress = Callable[[float, int, dict[str, float]], None]


def no_progress(done: float, total: int, figures: dict[str, float]) -> None:
    """A progress function that shows nothing."""


@dataclasses.dataclass(frozen=True)
class Context:
    """Where a stage runs.

    Attributes:
        folder: for the stage's artefacts; empty, or as a stopped run of the same stage
            left it.
        data: the data set.
        seed: of this stage; the same seed gives the same artefacts.
        progress: called with (done, total, figures).

    Example:
        >>> from pathlib import Path
        >>> Context(Path("out"), load_dataset("digits"), seed=1).data.num_classes
        10
    """

    folder: Path
    data: Dataset
    seed: int = 0
    progress: Progress = no_progress


class StageResult(NamedTuple):
    """What a stage made.

    Attributes:
        artefacts: files by artefact name.
        figures: plain data for the report.

    Example:
        >>> from pathlib import Path
        >>> made = StageResult({"student": Path("student.keras")}, {"accuracy": 0.97})
        >>> made.figures["accuracy"]
        0.97
    """

    artefacts: dict[str, Path]
    figures: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Base of stages. A subclass's fields are the recipe's keys and the CLI's flags.

    Importing a stage does not import TensorFlow; running it does.

    Example:
        >>> class Names(Stage):
        ...     name, gives = "names", ("names",)
        ...     def run(self, inputs, context):
        ...         file = context.folder / "names.txt"
        ...         file.write_text(" ".join(context.data.class_names))
        ...         return StageResult({"names": file}, {})
        >>> from pathlib import Path
        >>> Names().run({}, Context(Path("."), load_dataset("digits"))).artefacts
        {'names': PosixPath('names.txt')}
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def with_preset(cls, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's options, with what a preset says where they say nothing.

        Args:
            name: of the preset.
            given: the options without it.

        Raises:
            OptionError: no such preset.
        """
        raise OptionError(f"Stage '{cls.name}' has no presets. Received: '{name}'")

    def sources(self) -> tuple[Path, ...]:
        """Files from outside the run that the stage reads."""
        return ()

    def check(self, data: Dataset) -> None:
        """Raises what can be known to be wrong before anything is run or written."""

    def run(self, inputs: Mapping[str, Path], context: Context) -> StageResult:
        """Does the work.

        Args:
            inputs: artefacts made so far, by name; at least those in `needs`.
            context: where to write, the data, the seed.

        Returns:
            The artefacts in `gives`, and figures.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network by name, or a model file.

    Args:
        network: "resnet", "vgg" or "vit" (`tfcompress.models`); "detector" of boxes,
            "unet" of masks, "regressor" of numbers.
        depth: of a resnet: 6n + 2; blocks of a vit; halvings of a unet.
        width: channels of the first stage, of all but a vit.
        stem_strides: of a resnet's first convolution.
        blocks: of a vgg.
        hidden: hidden units of a vgg.
        patch_size: side of a vit's patches, pixels.
        dim: width of a vit's tokens.
        heads: of a vit's attention.
        load: a trained `.keras` file instead.

    Raises:
        ModelFileError: in `make`: no such network or option, or a file that is no model
            of these data.

    Example:
        >>> network = Network(network="resnet", depth=8)
        >>> network.make(load_dataset("digits"), seed=0).output_shape
        (None, 10)
    """

    network: str = "resnet"
    depth: int | None = None
    width: int | None = None
    stem_strides: int | None = None
    blocks: int | None = None
    hidden: int | None = None
    patch_size: int | None = None
    dim: int | None = None
    heads: int | None = None
    load: str | None = None

    def options(self) -> dict[str, int]:
        """The arguments that are set."""
        fields = {field.name for field in dataclasses.fields(Network)}
        values = {key: getattr(self, key) for key in fields - {"network", "load"}}
        return {key: value for key, value in values.items() if value is not None}

    def make(self, data: Dataset, seed: int) -> keras.Model:
        """The network with its initial weights, or the loaded model.

        Raises:
            ModelFileError: the file is no Keras model, or does not fit the data.
            ValueError: no such network or option.
        """
        if self.load is not None:
            return load_model(self.load, data)
        from tfcompress.models import NETWORKS, build
        from tfcompress.tasks import task_of

        task = task_of(data)
        if self.network in NETWORKS and self.network not in task.networks:
            raise ModelFileError(
                f"Network '{self.network}' is not for {data.task}, which data set "
                f"'{data.name}' is for; use {' or '.join(task.networks)}."
            )
        try:
            return build(
                self.network,
                data.image_shape,
                task.outputs,
                seed=seed,
                **self.options(),
            )
        except ValueError as error:
            raise ModelFileError(str(error)) from error


def load_model(path: str | Path, data: Dataset | None = None) -> keras.Model:
    """Loads a `.keras` file in safe mode and checks that it fits the data.

    Args:
        path: the file.
        data: a data set whose images and targets the model must be for, or None.

    Raises:
        ModelFileError: no such file, not a Keras model, code in the file, or a model
            whose inputs or outputs are not those of the data.

    Returns:
        The model, uncompiled.

    Example:
        >>> load_model("model.keras", load_dataset("digits")).output_shape
        (None, 10)
    """
    import keras

    import tfcompress.layers  # noqa: F401  (registers the factorized layers)

    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"There is no model file '{path}'.")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything from KeyError to OSError here.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"'{path}' is not a Keras model file that can be loaded safely: "
            f"{lines[0][:200]} Save models with model.save('name.keras')."
        ) from error
    if data is not None:
        check_fits(model, data, str(path))
    return model


def check_fits(model: keras.Model, data: Dataset, origin: str) -> None:
    """Raises unless the model takes images of this data set and gives its outputs.

    Raises:
        ModelFileError: other image shape, or other outputs, such as of other classes.
    """
    from tfcompress.tasks import task_of

    shapes = [tuple(x.shape[1:]) for x in getattr(model, "inputs", None) or []]
    expected = data.image_shape
    fits = len(shapes) == 1 and len(shapes[0]) == len(expected)
    fits = fits and all(
        have in (None, want) for have, want in zip(shapes[0], expected, strict=True)
    )
    if shapes and not fits:
        raise ModelFileError(
            f"Model '{origin}' takes inputs of shape {shapes}, but data set "
            f"'{data.name}' has images of shape {expected}: set image_size, or use "
            "another model."
        )
    task_of(data).check_outputs(model, origin)


def model_figures(model: keras.Model, data: Dataset) -> dict[str, Any]:
    """Params, MACs and bytes of a model on this data set."""
    from tfcompress.cost import model_cost

    return model_cost(model, data.image_shape)._asdict()


def choose(name: str, known: Mapping[str, Any], what: str) -> Any:
    """The entry of that name.

    Raises:
        OptionError: none; names the nearest.
    """
    if name not in known:
        raise OptionError(f"No {what} '{name}'; {nearest(name, known)}")
    return known[name]

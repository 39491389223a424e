"""Teachers: one or several networks to match, and how their outputs are combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcompress.distill.crops import crop_and_resize, full_boxes
from tfcompress.distill.outputs import DistillationError, comparable, kinds_of
from tfcompress.distill.samples import Samples
from tfcompress.distill.spec import ViewSpec
from tfcompress.distill.tapping import with_features
from tfcompress.distill.views import Size, ensemble_view
from tfcompress.errors import UnsupportedModelError, nearest
from tfcompress.surgery import in_dtype
from tfcompress.surgery.fold import fold_batch_norm

ENSEMBLES = ("logit_mean", "prob_mean", "kl_sum")

Preprocess = Callable[[Any], Any]


class Reader:
    """How one network takes images: at its own resolution and scaling.

    Args:
        model: a built network.
        preprocess: applied to the (resized) images last, such as
            `lambda x: x / 127.5 - 1.0`; None: as they are.
        size: `(height, width)`; by default that of the model's input, where the model
            has one image input of known size.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        preprocess: Preprocess | None = None,
        size: Size | None = None,
    ) -> None:
        self.preprocess = preprocess
        self.size = size or input_size(model)

    def ready(self, view: Any) -> Any:
        """A view of the right size as the network takes it."""
        return view if self.preprocess is None else self.preprocess(view)

    def clean(self, inputs: Any) -> Any:
        """Unchanged inputs as the network takes them: resized and scaled."""
        if self.size is not None:
            inputs = tf.nest.map_structure(self._resized, inputs)
        return self.ready(inputs)

    def _resized(self, x: Any) -> Any:
        x = tf.convert_to_tensor(x)
        if x.shape.rank != 4 or tuple(x.shape[1:3]) == self.size:
            return x
        x = x if x.dtype.is_floating else tf.cast(x, tf.float32)
        return crop_and_resize(x, full_boxes(tf.shape(x)[0]), self.size)


def input_size(model: keras.Model) -> Size | None:
    """`(height, width)` of a model's one image input, None where it is not fixed."""
    shapes = [tuple(x.shape) for x in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:3]:
        return None
    return shapes[0][1:3]


class Teachers:
    """One or several teachers, in inference mode, kept out of Keras' tracking.

    Args:
        models: built networks; they are not changed.
        preprocess: one function for all, or one each; see `Reader`.
        size: likewise.
        kinds: see `kinds_of`, likewise for all.
        ensemble: "logit_mean" (the paper's), "prob_mean" (mean of the tempered
            distributions) or "kl_sum" (the divergences from each are added).
        dtype: computing type such as "bfloat16"; None: as the teachers are. A copy is
            made.
        jit_compile: whether each teacher is compiled by XLA on its own; of use where
            the student cannot be.
        fold: whether batch normalization is folded into a copy of each teacher.
        layers: paths of layers whose outputs are wanted as well, of the first teacher.

    Raises:
        DistillationError: no teacher, or an unknown name.
    """

    def __init__(
        self,
        models: Sequence[keras.Model],
        *,
        preprocess: Any = None,
        size: Any = None,
        kinds: Any = None,
        ensemble: str = "logit_mean",
        dtype: str | None = None,
        jit_compile: bool = False,
        fold: bool = True,
        layers: Sequence[str] = (),
    ) -> None:
        if not models:
            raise DistillationError("Give at least one teacher.")
        if ensemble not in ENSEMBLES:
            raise DistillationError(
                f"No ensemble '{ensemble}'; {nearest(ensemble, ENSEMBLES)}"
            )
        self.models = tuple(models)
        self.ensemble = ensemble
        self.kinds = [kinds_of(model, kinds) for model in models]
        several = isinstance(preprocess, Sequence)
        functions = preprocess if several else [preprocess] * len(models)
        sizes = size if isinstance(size, list) else [size] * len(models)
        for what, given in (("preprocess", functions), ("size", sizes)):
            if len(given) != len(models):
                raise DistillationError(
                    f"Give one teacher_{what} for all teachers, or a list of one each. "
                    f"Received: {len(given)} for {len(models)} teachers"
                )
        self.readers = [
            Reader(model, preprocess=function, size=one)
            for model, function, one in zip(models, functions, sizes, strict=True)
        ]
        # A tapped layer may be a batch normalization, or what would be scaled for it.
        run = [
            _folded(model) if fold and not (layers and i == 0) else model
            for i, model in enumerate(models)
        ]
        run = [in_dtype(m, dtype) if dtype else m for m in run]
        if layers:
            run[0] = with_features(run[0], layers)
        self._features = bool(layers)
        self._forward = [_in_inference_mode(model, jit_compile) for model in run]

    def outputs(self, views: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
        """Comparable outputs of each teacher, and the features of the first.

        Args:
            views: one for each teacher, not yet preprocessed.
        """
        found, features = [], []
        for i, (reader, forward) in enumerate(
            zip(self.readers, self._forward, strict=True)
        ):
            result = forward(reader.ready(views[i]))
            if i == 0 and self._features:
                result, features = result
            result = tf.nest.map_structure(tf.stop_gradient, result)
            found.append(comparable(result, self.kinds[i]))
        return found, features

    def clean_outputs(self, inputs: Any) -> list[list[Any]]:
        """Comparable outputs of each teacher for unchanged inputs."""
        found = []
        for reader, forward, kinds in zip(
            self.readers, self._forward, self.kinds, strict=True
        ):
            result = forward(reader.clean(inputs))
            if self._features and not found:
                result = result[0]
            found.append(comparable(result, kinds))
        return found

    def combined(self, outputs: list[list[Any]], temperature: float) -> list[Any]:
        """One output for several teachers, each.

        Args:
            outputs: of each teacher, as logits or values.
            temperature: of the distillation.
        """
        if len(outputs) == 1:
            return outputs[0]
        classes = [kind != "values" for kind in self.kinds[0]]
        mean = [
            _prob_mean(parts, temperature)
            if is_class and self.ensemble != "logit_mean"
            else tf.add_n(parts) / float(len(parts))
            for is_class, *parts in zip(classes, *outputs, strict=True)
        ]
        return mean


def _prob_mean(logits: Sequence[Any], temperature: float) -> Any:
    """Logits whose tempered softmax is the mean of the tempered softmaxes."""
    logs = tf.stack([tf.nn.log_softmax(x / temperature) for x in logits])
    return temperature * tf.reduce_logsumexp(logs, axis=0)


def _folded(model: keras.Model) -> keras.Model:
    """The model, with its batch normalization in the kernels where that can be.

    Each normalization passes over memory once more: on a CPU a ResNet-20 takes 45 %
    longer with than without them.
    """
    layers = model._flatten_layers(include_self=False)
    if not any(isinstance(x, keras.layers.BatchNormalization) for x in layers):
        return model
    try:
        return fold_batch_norm(model)
    except UnsupportedModelError:
        # Layers that cannot be rebuilt compute as they are.
        return model


def _in_inference_mode(model: keras.Model, jit_compile: bool) -> Callable[[Any], Any]:
    # A function, and not the model: Keras tracks models.
    def forward(inputs: Any) -> Any:
        return model(inputs, training=False)

    return tf.function(forward, jit_compile=True) if jit_compile else forward


def mean_over_crops(
    teachers: Teachers, data: Samples, spec: ViewSpec, seed: int
) -> list[Any]:
    """Mean prediction over the ensemble's crops, the same in every epoch.

    Args:
        teachers: they are combined for each crop.
        data: numbered samples.
        spec: with `teacher="ensemble"`.
        seed: of the crops.

    Returns:
        For each output logits of the mean distribution, or the mean value.
    """
    classes = [kind != "values" for kind in teachers.kinds[0]]

    def one(index: Any) -> list[Any]:
        views = [
            ensemble_view(
                data.inputs, seed, spec, index, samples=data.sample, size=reader.size
            )
            for reader in teachers.readers
        ]
        found = teachers.combined(teachers.outputs(views)[0], 1.0)
        return [
            tf.nn.softmax(x) if is_class else x
            for x, is_class in zip(found, classes, strict=True)
        ]

    total = tf.nest.map_structure(tf.zeros_like, one(0))
    _, total = tf.while_loop(
        lambda i, _: i < spec.teacher_crops,
        lambda i, t: (i + 1, [a + b for a, b in zip(t, one(i), strict=True)]),
        (tf.constant(0), total),
        # The samples' places are unknown where a batch has no fixed size.
        shape_invariants=(tf.TensorShape(()), [tf.TensorShape(x.shape) for x in total]),
    )
    mean = [x / float(spec.teacher_crops) for x in total]
    return [
        tf.math.log(tf.maximum(x, 1e-12)) if is_class else x
        for x, is_class in zip(mean, classes, strict=True)
    ]

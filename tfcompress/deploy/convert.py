"""Conversion of Keras models to the bytes of a `.tflite` file."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfcompress.deploy.flatbuffer import read_ops
from tfcompress.deploy.forms import WEIGHT_ONLY, ExportError
from tfcompress.deploy.interface import Interface

SIGNATURE = "serving_default"

_OPS = tf.lite.OpsSet
_INTEGER_OPS = {
    "int8": _OPS.TFLITE_BUILTINS_INT8,
    "16x8": _OPS.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}


class Signature:
    """The inference call as a SavedModel, in a folder of its own until it is closed.

    It is traced and written when it is first needed; files of several forms share it.

    Args:
        interface: what is called.
    """

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.graph: tf.Graph | None = None
        self._folder = tempfile.TemporaryDirectory()

    def saved(self) -> str:
        """The folder of the SavedModel."""
        if self.graph is None:
            self.graph = _save(self.interface, self._folder.name)
        return self._folder.name

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()


def convert(
    model: keras.Model,
    signature: Signature,
    quantization: str,
    *,
    samples: list[dict[str, Any]] | None,
    io_dtype: str,
    allow: tuple[str, ...],
    float_layers: tuple[str, ...] = (),
) -> bytes:
    """The model as a TFLite flatbuffer.

    Args:
        model: the model, which names what fails.
        signature: its inference call.
        quantization, io_dtype, allow, float_layers: see `export_tflite`.
        samples: calibration samples, where the form needs them.

    Raises:
        ExportError: names the reason, and the layers where they are known.
    """
    with quiet_conversion():
        try:
            converter = tf.lite.TFLiteConverter.from_saved_model(
                signature.saved(), signature_keys=[SIGNATURE]
            )
            _set_up(converter, quantization, samples, io_dtype, allow)
            content = converter.convert()
            if float_layers:
                content = _partly_float(converter, content, model, float_layers)
        # The converter lets through whatever its many passes raise.
        except Exception as error:
            raise ExportError(
                f"Model '{model.name}' cannot be converted to TFLite ({quantization}): "
                f"{_reason(error, model, signature.graph)}"
            ) from error
        if quantization in WEIGHT_ONLY:
            return _weights_only(content, quantization)
        return content


def _set_up(
    converter: Any,
    quantization: str,
    samples: list[dict[str, Any]] | None,
    io_dtype: str,
    allow: tuple[str, ...],
) -> None:
    ops = [_INTEGER_OPS.get(quantization, _OPS.TFLITE_BUILTINS)]
    if quantization in _INTEGER_OPS and "float" in allow:
        ops.append(_OPS.TFLITE_BUILTINS)
    if "flex" in allow:
        ops.append(_OPS.SELECT_TF_OPS)
    converter.target_spec.supported_ops = ops
    if quantization == "float32" or quantization in WEIGHT_ONLY:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization in _INTEGER_OPS:
        converter.representative_dataset = lambda: iter(samples)
        converter.inference_input_type = tf.as_dtype(io_dtype)
        converter.inference_output_type = tf.as_dtype(io_dtype)


def _partly_float(
    converter: Any, content: bytes, model: keras.Model, layers: tuple[str, ...]
) -> bytes:
    """Converts again, without quantizing the operations of some layers."""
    places = [
        op.place for op in read_ops(content) if layer_of(model, op.place) in layers
    ]
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=places
        ),
    )
    return debugger.get_nondebug_quantized_model()


def _save(interface: Interface, folder: str) -> tf.Graph:
    """Writes the SavedModel; returns its graph."""
    # One dict argument keeps names that are no Python identifiers ("my-image").
    function = tf.function(interface.call, autograph=False)
    concrete = function.get_concrete_function(interface.specs)
    module = tf.Module()
    # Tracked through the Keras model, variables reach the file as resources that
    # calibration cannot read; tracked directly, they are frozen into constants.
    module.captured = list(concrete.graph.variables)
    # Nobody trains what is converted: gradients of activations such as swish would be
    # traced one by one, which takes as long as everything else.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(
        module, folder, signatures={SIGNATURE: concrete}, options=options
    )
    return concrete.graph


def _weights_only(content: bytes, quantization: str) -> bytes:
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise ExportError(
            f"A {quantization} file needs ai-edge-quantizer: "
            "pip install 'tfcompress[edge]'."
        ) from error
    bits = quantization.removeprefix("weight_int")
    chosen = getattr(recipe, f"weight_only_wi{bits}_afp32")()
    # It prints what it did.
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        path = Path(folder) / "float32.tflite"
        path.write_bytes(content)
        return bytes(quantizer.Quantizer(str(path), chosen).quantize().quantized_model)


def _reason(error: Exception, model: keras.Model, graph: Any) -> str:
    text = str(error)
    unsupported = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE)
    if unsupported and re.search(r"xb?f16>", text):
        return (
            "it computes in half precision, for which TFLite has few operations; "
            "rebuild it with the 'float32' dtype policy and the same weights."
        )
    if unsupported:
        names = ", ".join(unsupported)
        kinds = set(names.split(", "))
        places = [
            op.name for op in _all_operations(graph) if {op.type, op.type[2:]} & kinds
        ]
        return (
            f"no built-in operation for {names}{_of_layers(model, places)}; replace "
            "the layers that use them."
        )
    places = re.findall(r'"([^"@:]+)[^"]*"', text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = re.sub(r"^(?:<unknown>:0|loc\(.*\)): ", "", lines[0]) if lines else ""
    return f"{(first or type(error).__name__)[:300]}{_of_layers(model, places)}"


def _all_operations(graph: Any) -> Iterator[Any]:
    if graph is None:
        return
    yield from graph.get_operations()
    for name in graph._functions:
        inner = graph._get_function(name).graph
        if inner is not None:
            yield from inner.get_operations()


def _of_layers(model: keras.Model, places: Iterable[str]) -> str:
    found = layers_at(model, places)
    if not found:
        return ""
    word = "layer" if len(found) == 1 else "layers"
    return f" (in the {word} {', '.join(repr(name) for name in found)})"


def layers_at(model: keras.Model, places: Iterable[str]) -> list[str]:
    """The innermost layers that scopes such as "functional_1/conv_1/Relu" name.

    Args:
        model: has the layers, nested ones included.
        places: names of operations or tensors; a scope that was entered more than once
            has a number behind the layer's name.
    """
    known = {layer.name for layer in model._flatten_layers(include_self=False)}
    found: dict[str, None] = {}
    for place in places:
        for part in reversed(re.split(r"[/;]", place)):
            name = next(
                (n for n in (part, re.sub(r"_\d+$", "", part)) if n in known), None
            )
            if name is not None:
                found[name] = None
                break
    return list(found)


def layer_of(model: keras.Model, place: str) -> str | None:
    """The layer of a result; where several were fused, the one with the kernel."""
    names = [name for part in place.split(";") for name in layers_at(model, [part])]
    layers = {layer.name: layer for layer in model._flatten_layers()}
    kernels = [
        name
        for name in names
        if layers[name].weights
        and not isinstance(layers[name], keras.layers.BatchNormalization)
    ]
    return next(iter(kernels + names), None)


@contextlib.contextmanager
def quiet_conversion() -> Iterator[None]:
    """Mutes the Python chatter of saving and converting; C++ logs are the process's."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

"""The forms of a `.tflite` file, as plain data: importing this needs no TensorFlow."""

from __future__ import annotations

from tfcompress.errors import TfcompressError, nearest

# What each stores and computes in.
QUANTIZATIONS = {
    "float32": "float weights and activations",
    "float16": "float16 weights, float activations",
    "dynamic": "int8 weights, float activations; kernels of 1,024 numbers or more",
    "int8": "int8 weights and activations",
    "16x8": "int8 weights, int16 activations",
    "weight_int8": "int8 weights, computed in float",
    "weight_int4": "int4 weights, computed in float",
}
CALIBRATED = ("int8", "16x8")
# int8 in the way that keeps the accuracy; see `tfcompress.quantize.quantize_auto`.
AUTO = "auto"
WEIGHT_ONLY = ("weight_int8", "weight_int4")
# Types of inputs and outputs beside float32.
IO_DTYPES = {"int8": "int8", "16x8": "int16"}
# What an integer file may hold all the same, where the caller allows it.
ALLOWANCES = ("float", "flex")


class ExportError(TfcompressError, RuntimeError):
    """A model cannot be exported, or the exported file is not what was asked for."""


def check_form(quantization: str, io_dtype: str) -> None:
    """Raises unless there is such a form.

    Args:
        quantization: one of `QUANTIZATIONS`.
        io_dtype: type of inputs and outputs.

    Raises:
        ExportError: names the nearest form, or the types that a form can have.
    """
    if quantization == AUTO:
        raise ExportError(
            "quantization='auto' looks at the accuracy, so it needs labelled data: use "
            "tfcompress.quantize.quantize_auto."
        )
    if quantization not in QUANTIZATIONS:
        hint = nearest(str(quantization), QUANTIZATIONS)
        raise ExportError(
            f"No quantization '{quantization}'; {hint} Received: {quantization!r}"
        )
    known = ("float32", IO_DTYPES.get(quantization))
    if io_dtype not in known:
        raise ExportError(
            f"A {quantization} file cannot have inputs of that type: it takes "
            f"{' or '.join(repr(one) for one in known if one)}. "
            f"Received: io_dtype={io_dtype!r}"
        )

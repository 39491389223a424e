"""The only code that rebuilds models. The caller's model is never changed."""

from tfcompress.surgery.batch_norm import recalibrate_batch_norm
from tfcompress.surgery.dtype import in_dtype, synchronize_batch_norm
from tfcompress.surgery.replace import copy_model, expand, factorize, replace_layers

__all__ = [
    "copy_model",
    "expand",
    "factorize",
    "in_dtype",
    "recalibrate_batch_norm",
    "replace_layers",
    "synchronize_batch_norm",
]

"""Image classification data as `tf.data`: TFDS names, folders, IDX files, digits.

Importing this package does not import TensorFlow.
"""

from tfcompress.data.dataset import Dataset
from tfcompress.data.examples import write_examples
from tfcompress.data.idx import read_idx
from tfcompress.data.importing import import_idx
from tfcompress.data.load import load_dataset
from tfcompress.data.spec import DatasetError, DatasetSpec

__all__ = [
    "Dataset",
    "DatasetError",
    "DatasetSpec",
    "import_idx",
    "load_dataset",
    "read_idx",
    "write_examples",
]

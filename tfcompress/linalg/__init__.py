"""Decompositions: NumPy arrays in, NumPy arrays out. No Keras, no TensorFlow."""

from tfcompress.linalg.evbmf import evbmf, evbmf_noise_variance, evbmf_rank
from tfcompress.linalg.svd import balanced_factors, singular_values, truncated_svd
from tfcompress.linalg.tucker import multi_mode_spectra, tucker2, tucker2_to_tensor

__all__ = [
    "balanced_factors",
    "evbmf",
    "evbmf_noise_variance",
    "evbmf_rank",
    "multi_mode_spectra",
    "singular_values",
    "truncated_svd",
    "tucker2",
    "tucker2_to_tensor",
]

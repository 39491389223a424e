"""Decompositions: NumPy arrays in, NumPy arrays out. No Keras, no TensorFlow."""

from tfcompress.linalg.cp import CP, cp, cp_max_rank, cp_to_tensor, degeneracy
from tfcompress.linalg.evbmf import evbmf, evbmf_noise_variance, evbmf_rank
from tfcompress.linalg.moments import Moments
from tfcompress.linalg.svd import balanced_factors, singular_values, truncated_svd
from tfcompress.linalg.tucker import multi_mode_spectra, tucker2, tucker2_to_tensor
from tfcompress.linalg.weighted import (
    rebalanced,
    weighted_svd,
    weighted_svd_errors,
    weighted_tucker2,
    weighted_tucker2_errors,
)
from tfcompress.linalg.weighted_cp import weighted_cp, weighted_cp_errors

__all__ = [
    "CP",
    "Moments",
    "balanced_factors",
    "cp",
    "cp_max_rank",
    "cp_to_tensor",
    "degeneracy",
    "evbmf",
    "evbmf_noise_variance",
    "evbmf_rank",
    "multi_mode_spectra",
    "rebalanced",
    "singular_values",
    "truncated_svd",
    "tucker2",
    "tucker2_to_tensor",
    "weighted_cp",
    "weighted_cp_errors",
    "weighted_svd",
    "weighted_svd_errors",
    "weighted_tucker2",
    "weighted_tucker2_errors",
]

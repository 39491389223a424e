"""Decompositions in the metric of the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import (
    Moments,
    rebalanced,
    truncated_svd,
    tucker2,
    tucker2_to_tensor,
    weighted_svd,
    weighted_svd_errors,
    weighted_tucker2,
    weighted_tucker2_errors,
)

TAPS, IN, OUT = 4, 6, 7


def random_moments(seed, size=TAPS * IN, directions=None):
    """Moments with a spectrum that falls; of few directions: rank-deficient."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, directions or size))
    scales = 2.0 ** -np.linspace(0, 6, rows.shape[1])
    rows = (rows * scales) @ rng.normal(size=(rows.shape[1], size))
    return Moments(rows.T @ rows / len(rows), rows.mean(axis=0), len(rows))


def random_tensor(seed):
    return np.random.default_rng(seed).normal(size=(TAPS, IN, OUT))


def lost(kernel, other, moments):
    """Share of the output energy in the difference of two kernels."""
    kernel, other = (x.reshape(-1, x.shape[-1]) for x in (kernel, other))
    return moments.output_energy(kernel - other) / moments.output_energy(kernel)


@given(rank=st.integers(1, OUT), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_weighted_svd_is_the_optimum(rank, seed):
    moments = random_moments(seed)
    matrix = random_tensor(seed + 100).reshape(-1, OUT)
    left, right = weighted_svd(matrix, rank, moments)
    assert left.shape == (TAPS * IN, rank)
    assert right.shape == (rank, OUT)
    # Eckart and Young: no less than the tail of the whitened spectrum.
    values = np.linalg.svd(moments.root.T @ matrix, compute_uv=False)
    tail = np.sum(values[rank:] ** 2) / np.sum(values**2)
    assert lost(matrix, left @ right, moments) == pytest.approx(tail, abs=1e-9)


@given(rank=st.integers(1, OUT - 1), seed=st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_no_other_factors_lose_less(rank, seed):
    rng = np.random.default_rng(seed)
    moments = random_moments(seed)
    matrix = random_tensor(seed).reshape(-1, OUT)
    best = lost(matrix, np.matmul(*weighted_svd(matrix, rank, moments)), moments)
    plain = lost(matrix, np.matmul(*weighted_svd(matrix, rank)), moments)
    assert best <= plain + 1e-12
    left, right = weighted_svd(matrix, rank, moments)
    for scale in (1e-3, 1e-1):
        near = left + scale * rng.normal(size=left.shape)
        assert best <= lost(matrix, near @ right, moments) + 1e-12


def test_without_moments_it_is_the_plain_svd():
    matrix = random_tensor(0).reshape(-1, OUT)
    u, s, vt = truncated_svd(matrix, 3)
    np.testing.assert_allclose(
        np.matmul(*weighted_svd(matrix, 3)), (u * s) @ vt, atol=1e-12
    )
    white = Moments(np.eye(TAPS * IN), np.zeros(TAPS * IN), 1)
    np.testing.assert_allclose(
        np.matmul(*weighted_svd(matrix, 3, white)), (u * s) @ vt, atol=1e-9
    )


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("size", [TAPS * IN, IN])
def test_full_rank_is_exact(directions, size):
    moments = random_moments(1, size=size, directions=directions)
    tensor = random_tensor(2)
    matrix = tensor.reshape(-1, OUT)
    np.testing.assert_allclose(
        np.matmul(*weighted_svd(matrix, OUT, moments)), matrix, atol=1e-8
    )
    parts = weighted_tucker2(tensor, (IN, OUT), moments)
    np.testing.assert_allclose(tucker2_to_tensor(*parts), tensor, atol=1e-7)


@pytest.mark.parametrize("size", [TAPS * IN, IN])
@pytest.mark.parametrize("directions", [None, 2])
@pytest.mark.parametrize("ranks", [(1, 1), (3, 4), (6, 2), (2, 7), (1, 7)])
def test_weighted_tucker2_loses_less_than_the_plain_one(size, directions, ranks):
    moments = random_moments(3, size=size, directions=directions)
    tensor = random_tensor(4)
    core, u, v = weighted_tucker2(tensor, ranks, moments)
    assert core.shape == (TAPS, *ranks)
    assert (u.shape, v.shape) == ((IN, ranks[0]), (OUT, ranks[1]))
    assert all(np.all(np.isfinite(part)) for part in (core, u, v))
    aware = lost(tensor, tucker2_to_tensor(core, u, v), moments)
    plain = lost(tensor, tucker2_to_tensor(*tucker2(tensor, ranks)), moments)
    assert aware <= plain + 1e-9


def test_core_and_output_basis_are_optimal_for_their_inputs():
    """No change of the core, nor of the output basis, loses less."""
    moments, tensor = random_moments(5), random_tensor(6)
    core, u, v = weighted_tucker2(tensor, (3, 4), moments)
    best = lost(tensor, tucker2_to_tensor(core, u, v), moments)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 1e-1):
        near = core + scale * rng.normal(size=core.shape)
        assert best <= lost(tensor, tucker2_to_tensor(near, u, v), moments)
        near = v + scale * rng.normal(size=v.shape)
        assert best <= lost(tensor, tucker2_to_tensor(core, u, near), moments)


@pytest.mark.parametrize("size", [None, TAPS * IN, IN])
def test_errors_of_many_ranks_are_those_of_the_factors(size):
    moments = None if size is None else random_moments(7, size=size)
    metric = moments or Moments(np.eye(IN), np.zeros(IN), 1)
    tensor = random_tensor(8)
    matrix = tensor.reshape(-1, OUT)
    ranks = [7, 1, 3, 3]
    built = [
        lost(matrix, np.matmul(*weighted_svd(matrix, rank, moments)), metric)
        for rank in ranks
    ]
    np.testing.assert_allclose(
        weighted_svd_errors(matrix, ranks, moments), built, atol=1e-9
    )
    pairs = [(2, 3), (6, 7), (6, 2), (2, 7), (1, 1), (4, 5)]
    built = np.array(
        [
            lost(
                tensor, tucker2_to_tensor(*weighted_tucker2(tensor, r, moments)), metric
            )
            for r in pairs
        ]
    )
    predicted = weighted_tucker2_errors(tensor, pairs, moments)
    # Predicted without HOOI sweeps.
    np.testing.assert_allclose(predicted, built, rtol=0.1, atol=1e-9)


def test_errors_of_a_zero_kernel():
    zeros = np.zeros((TAPS, IN, OUT))
    moments = random_moments(9)
    assert np.all(weighted_svd_errors(zeros.reshape(-1, OUT), [1, 2], moments) == 0)
    assert np.all(weighted_tucker2_errors(zeros, [(1, 1)], moments) == 0)


def test_rebalanced_keeps_the_product():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 3)) * [1e3, 1.0, 0.0], rng.normal(size=(3, 4))
    a, b = rebalanced(left, right)
    np.testing.assert_allclose(a @ b, left @ right)
    norms = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(norms[0][:2], norms[1][:2])

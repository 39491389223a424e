"""Truncated SVD: the best approximation, whatever the aspect ratio and the route."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import balanced_factors, singular_values, svd, truncated_svd

SHAPES = [(1, 1), (1, 9), (9, 1), (7, 7), (40, 12), (12, 40), (64, 61)]


def normal(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def product(u, s, vt):
    return (u * s) @ vt


@st.composite
def matrices_and_ranks(draw):
    m, n = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rank = draw(st.integers(1, min(m, n)))
    scale = 10.0 ** draw(st.integers(-4, 4))
    return normal((m, n), draw(st.integers(0, 999))) * scale, rank


def check_truncation(matrix, rank, *, tolerance):
    """Eckart-Young, orthonormality, order, against NumPy's own SVD in float64."""
    u, s, vt = truncated_svd(matrix, rank)
    assert (u.shape, s.shape, vt.shape) == (
        (matrix.shape[0], rank),
        (rank,),
        (rank, matrix.shape[1]),
    )
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    size = np.linalg.norm(exact)
    np.testing.assert_allclose(u.T @ u, np.eye(rank), atol=tolerance)
    np.testing.assert_allclose(vt @ vt.T, np.eye(rank), atol=tolerance)
    np.testing.assert_allclose(s, exact[:rank], atol=tolerance * size)
    assert np.all(np.diff(s) <= tolerance * size)
    error = np.linalg.norm(matrix - product(u, s, vt))
    tail = np.linalg.norm(exact[rank:])
    assert error == pytest.approx(tail, rel=tolerance, abs=tolerance * size)


@settings(max_examples=40, deadline=None)
@given(matrices_and_ranks())
def test_error_is_the_tail_of_the_spectrum(case):
    check_truncation(*case, tolerance=1e-10)


def test_short_sides_of_many_channels_take_the_gram_route():
    """No monkeypatching: what 1x1 convolutions of common networks look like."""
    matrix = normal((160, 300), dtype=np.float32)
    check_truncation(matrix, 80, tolerance=1e-9)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix), exact, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (80, 80), (64, 500)])
def test_gram_route_gives_the_same(monkeypatch, shape, dtype):
    matrix = normal(shape, dtype=dtype)
    direct = product(*truncated_svd(matrix, 20))
    monkeypatch.setattr(svd, "_GRAM_FROM", 16)
    monkeypatch.setattr(svd, "_FLOAT64_TO", 16)
    check_truncation(matrix, 20, tolerance=1e-4 if dtype == np.float32 else 1e-9)
    gram = product(*truncated_svd(matrix, 20))
    np.testing.assert_allclose(gram, direct, atol=2e-4)
    np.testing.assert_allclose(
        singular_values(matrix), np.linalg.svd(matrix, compute_uv=False), rtol=1e-3
    )


@pytest.mark.parametrize("shape", [(60, 50), (50, 60)])
@pytest.mark.parametrize("decades", [1, 6])
def test_gram_route_keeps_orthonormal_factors(monkeypatch, decades, shape):
    """Squared condition numbers must not reach the factors, in float32 at that."""
    monkeypatch.setattr(svd, "_GRAM_FROM", 16)
    monkeypatch.setattr(svd, "_FLOAT64_TO", 16)
    u, _, vt = truncated_svd(normal(shape), 50)
    scales = 10.0 ** -np.linspace(0, decades, 50)
    matrix = ((u * scales) @ vt).astype(np.float32)
    left, s, right = truncated_svd(matrix, 20)
    assert s.dtype == np.float32
    np.testing.assert_allclose(right @ right.T, np.eye(20), atol=1e-5)
    np.testing.assert_allclose(left.T @ left, np.eye(20), atol=1e-5)
    np.testing.assert_allclose(s, scales[:20], rtol=1e-2)
    assert np.all(np.diff(s) <= 0.0)
    error = np.linalg.norm(matrix - product(left, s, right))
    assert error <= 1.01 * np.linalg.norm(scales[20:]) + 1e-6


@pytest.mark.parametrize("rank", [26, 50])
def test_high_ranks_in_float32_are_not_squared(monkeypatch, rank):
    """Beyond half the short side the kept directions can be below the Gram's noise."""
    monkeypatch.setattr(svd, "_GRAM_FROM", 16)
    monkeypatch.setattr(svd, "_FLOAT64_TO", 16)
    u, _, vt = truncated_svd(normal((60, 50)), 50)
    matrix = ((u * 10.0 ** -np.linspace(0, 6, 50)) @ vt).astype(np.float32)
    _, s, _ = truncated_svd(matrix, rank)
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:rank]
    np.testing.assert_allclose(s, exact, rtol=0.2 if rank == 50 else 1e-2)


@pytest.mark.parametrize("gram_from", [4, 1024])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_exact(monkeypatch, shape, gram_from):
    monkeypatch.setattr(svd, "_GRAM_FROM", gram_from)
    matrix = normal(shape)
    np.testing.assert_allclose(
        product(*truncated_svd(matrix, min(shape))), matrix, atol=1e-12
    )


def test_exactly_low_rank_needs_no_more(monkeypatch):
    low = normal((50, 3)) @ normal((3, 40), seed=1)
    for gram_from in (8, 1024):
        monkeypatch.setattr(svd, "_GRAM_FROM", gram_from)
        np.testing.assert_allclose(product(*truncated_svd(low, 3)), low, atol=1e-10)
        np.testing.assert_allclose(product(*truncated_svd(low, 8)), low, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_matrix(shape):
    zero = np.zeros(shape)
    u, s, vt = truncated_svd(zero, 1)
    assert np.all(np.isfinite(u)) and np.all(np.isfinite(vt))
    np.testing.assert_array_equal(s, [0.0])
    np.testing.assert_array_equal(singular_values(zero), np.zeros(min(shape)))


def test_input_is_left_alone():
    matrix = normal((8, 6))
    before = matrix.copy()
    truncated_svd(matrix, 3)
    singular_values(matrix)
    np.testing.assert_array_equal(matrix, before)


@settings(max_examples=20, deadline=None)
@given(matrices_and_ranks())
def test_balanced_factors_share_the_singular_values(case):
    matrix, rank = case
    u, s, vt = truncated_svd(matrix, rank)
    left, right = balanced_factors(u, s, vt)
    size = max(np.linalg.norm(matrix), 1e-12)
    np.testing.assert_allclose(left @ right, product(u, s, vt), atol=1e-10 * size)
    np.testing.assert_allclose(left.T @ left, np.diag(s), atol=1e-10 * size)
    np.testing.assert_allclose(right @ right.T, np.diag(s), atol=1e-10 * size)


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_rank_out_of_range(rank):
    with pytest.raises(ValueError, match=rf"\[1, 4\]. Received: rank={rank}"):
        truncated_svd(normal((4, 6)), rank)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights_are_named(value):
    matrix = normal((4, 6))
    matrix[1, 2] = value
    for function in (singular_values, lambda x: truncated_svd(x, 2)):
        with pytest.raises(ValueError, match="NaN or infinity.*Received: 1 such"):
            function(matrix)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 4)])
def test_what_is_no_matrix(shape):
    with pytest.raises(ValueError, match="non-empty matrix"):
        singular_values(np.zeros(shape))

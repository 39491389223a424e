"""Products by SciPy's BLAS: the right numbers, whatever the order in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import blas

ORDERS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
}


def normal(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def full(gram):
    """The symmetric matrix of a lower triangle."""
    np.testing.assert_array_equal(gram, np.tril(gram))
    return gram + np.tril(gram, -1).T


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.sampled_from(sorted(ORDERS)),
    st.sampled_from(sorted(ORDERS)),
)
def test_product(sizes, left_order, right_order):
    m, k, n = sizes
    left, right = normal((m, k)), normal((k, n), 1)
    found = blas.product(ORDERS[left_order](left), ORDERS[right_order](right))
    np.testing.assert_allclose(found, left @ right, atol=1e-12)
    assert found.flags.c_contiguous


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_gram_matrices(m, n, columns):
    matrix, other = normal((m, n)), normal((m, columns), 1)
    gram = blas.row_gram(matrix)
    np.testing.assert_allclose(full(gram), matrix @ matrix.T, atol=1e-12)
    np.testing.assert_allclose(
        full(blas.column_gram(matrix)), matrix.T @ matrix, atol=1e-12
    )
    found = blas.gram_product(gram, other)
    np.testing.assert_allclose(found, matrix @ matrix.T @ other, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(dtype):
    """A product in float64 by accident costs twice the time."""
    matrix = normal((8, 5), dtype=dtype)
    gram = blas.row_gram(matrix)
    assert gram.dtype == blas.product(matrix, matrix.T).dtype == dtype
    assert blas.gram_product(gram, matrix).dtype == dtype
    assert blas.leading_eigenvectors(gram, 2).dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("size", "rank"), [(1, 1), (2, 1), (2, 2), (9, 1), (9, 4), (9, 9), (140, 70)]
)
def test_leading_eigenvectors(size, rank, dtype):
    matrix = normal((size, 3 * size), dtype=dtype)
    symmetric = matrix @ matrix.T
    vectors = blas.leading_eigenvectors(blas.row_gram(matrix), rank)
    values = np.linalg.eigvalsh(symmetric)[::-1][:rank]
    tolerance = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(rank), atol=tolerance)
    np.testing.assert_allclose(
        symmetric @ vectors, vectors * values, atol=tolerance * size * values[0]
    )


@pytest.mark.parametrize("values", [np.zeros(6), np.ones(6), np.r_[1.0, np.zeros(5)]])
def test_eigenvectors_of_what_has_no_spectrum_to_speak_of(values):
    vectors = blas.leading_eigenvectors(np.asfortranarray(np.diag(values)), 4)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-14)
    kept = np.einsum("ij,i,ij->", vectors, values, vectors)
    assert kept == pytest.approx(values[:4].sum())


def test_gram_spectrum():
    matrix = normal((9, 30))
    exact = np.linalg.svd(matrix, compute_uv=False)
    found = blas.gram_spectrum(blas.row_gram(matrix))
    np.testing.assert_allclose(found, exact)
    assert found.dtype == np.float64

"""CP: exact at full rank, stable terms, the correction, and what degenerates."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import parafac

from tfcompress.linalg import (
    Moments,
    cp,
    cp_max_rank,
    cp_to_tensor,
    degeneracy,
    weighted_cp,
    weighted_cp_errors,
)
from tfcompress.linalg.cp import DEGENERACY_LIMIT, is_swept, slice_energies
from tfcompress.linalg.cp_sweeps import (
    Sweeps,
    bounded_solution,
    energy_of,
    limited_solution,
)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def terms_of(shape, rank, seed=0):
    return tuple(normal((n, rank), seed + i) for i, n in enumerate(shape))


def decaying(shape, seed=0):
    """A tensor whose modes fall off as those of trained kernels do."""
    tensor = normal(shape, seed)
    for axis, n in enumerate(shape):
        basis = np.linalg.qr(normal((n, n), seed + 1 + axis))[0]
        scaled = basis * np.arange(1, n + 1) ** -0.4
        tensor = np.moveaxis(np.tensordot(scaled, tensor, axes=(1, axis)), 0, axis)
    return tensor


def border(shape, seed=0):
    """x x y + x y x + y x x: of rank 3, yet as near to rank 2 as one likes."""
    pairs = [np.linalg.qr(normal((n, 2), seed + i))[0].T for i, n in enumerate(shape)]
    (x0, y0), (x1, y1), (x2, y2) = pairs
    outer = functools.partial(np.einsum, "i,j,k")
    return outer(x0, x1, y2) + outer(x0, y1, x2) + outer(y0, x1, x2)


def relative_error(tensor, terms):
    return np.linalg.norm(tensor - cp_to_tensor(*terms)) / np.linalg.norm(tensor)


@st.composite
def tensors_and_ranks(draw):
    shape = tuple(draw(st.integers(1, 12)) for _ in range(3))
    return (
        normal(shape, draw(st.integers(0, 999))),
        draw(st.integers(1, cp_max_rank(shape))),
    )


@settings(max_examples=60, deadline=None)
@given(tensors_and_ranks())
def test_invariants(case):
    tensor, rank = case
    found = cp(tensor, rank)
    for factor, size in zip(found.terms, tensor.shape, strict=True):
        assert factor.shape == (size, rank)
    assert found.error == pytest.approx(relative_error(tensor, found.terms), abs=1e-9)
    assert found.error <= 1.0
    assert degeneracy(*found.terms, tensor) <= DEGENERACY_LIMIT * (1 + 1e-6)
    # No scaling of the terms makes them less sensitive to noise than this one.
    sizes = [np.sqrt(np.mean(np.square(x), axis=0)) for x in found.terms]
    np.testing.assert_allclose(sizes[1], sizes[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(sizes[2], sizes[0], rtol=1e-6, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(tensors_and_ranks())
def test_exact_at_the_largest_rank(case):
    tensor, _ = case
    found = cp(tensor, cp_max_rank(tensor.shape))
    np.testing.assert_allclose(cp_to_tensor(*found.terms), tensor, atol=1e-10)
    assert found.error < 1e-10 and not found.degenerate


@settings(max_examples=40, deadline=None)
@given(tensors_and_ranks())
def test_error_is_below_the_bound_of_the_slices(case):
    tensor, rank = case
    energies = slice_energies(tensor)
    assert energies.sum() == pytest.approx(np.sum(np.square(tensor)))
    bound = np.sqrt(energies[rank:].sum() / energies.sum())
    # Sweeps start near the slices, and may end in another minimum.
    slack = 0.02 if is_swept(tensor.shape, rank) else 1e-7
    assert cp(tensor, rank).error <= bound + slack


@pytest.mark.parametrize("shape", [(9, 16, 24), (9, 80, 70), (25, 12, 12)])
def test_planted_terms_are_found(shape):
    rank = 8
    terms = terms_of(shape, rank)
    found = cp(cp_to_tensor(*terms), rank, tolerance=1e-6)
    assert found.error < 1e-4 and not found.degenerate
    cosines = np.ones((rank, rank))
    for true, factor in zip(terms, found.terms, strict=True):
        true, factor = (x / np.linalg.norm(x, axis=0) for x in (true, factor))
        cosines *= true.T @ factor
    # Every planted term is one of the found ones, each once.
    assert sorted(np.argmax(cosines, axis=1)) == list(range(rank))
    np.testing.assert_allclose(cosines.max(axis=1), 1.0, atol=1e-4)


def test_result_is_deterministic_by_seed():
    tensor = decaying((9, 16, 16))
    one, two, other = (cp(tensor, 12, seed=seed) for seed in (0, 0, 1))
    for x, y in zip(one.terms, two.terms, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(one.b, other.b)
    assert other.error == pytest.approx(one.error, rel=0.03)


def test_more_terms_lose_less():
    tensor = decaying((9, 24, 20))
    errors = [cp(tensor, rank).error for rank in (1, 4, 16, 40, 80, 180)]
    assert all(b < a for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-10


def test_start_at_the_answer_stays_there():
    terms = terms_of((9, 12, 14), 6)
    tensor = cp_to_tensor(*terms)
    assert cp(tensor, 6, start=terms, max_sweeps=3).error < 1e-6


@pytest.mark.parametrize("rank", [10, 30])
def test_error_is_that_of_tensorly(rank):
    tensor = decaying((9, 32, 40))
    reference = parafac(tensor, rank, init="svd", n_iter_max=100, tol=1e-6)
    expected = relative_error(tensor, cp_terms(reference))
    assert cp(tensor, rank).error <= 1.02 * expected


def cp_terms(reference):
    weights, (a, b, c) = reference
    return a * weights, b, c


def test_zero_tensor():
    found = cp(np.zeros((9, 4, 5)), 3)
    assert found.error == 0.0 and not found.degenerate
    np.testing.assert_array_equal(cp_to_tensor(*found.terms), np.zeros((9, 4, 5)))


@pytest.mark.parametrize(
    ("tensor", "rank", "message"),
    [
        (np.ones((3, 4)), 1, r"tensor \(taps, in, out\).*shape=\(3, 4\)"),
        (np.ones((3, 0, 4)), 1, "non-empty"),
        (np.full((3, 4, 5), np.nan), 1, "NaN or infinity.*Received: 60"),
        (np.ones((3, 4, 5)), 0, r"\[1, 12\].*rank=0"),
        (np.ones((3, 4, 5)), 13, r"\[1, 12\].*rank=13"),
    ],
)
def test_errors(tensor, rank, message):
    with pytest.raises(ValueError, match=message):
        cp(tensor, rank)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.05, 0.95), st.integers(0, 99))
def test_bounded_solution_is_the_smallest(rank, outputs, share, seed):
    z, y = normal((20, rank), seed), normal((20, outputs), seed + 1)
    total, gram, right = float(np.sum(y * y)), z.T @ z, y.T @ z
    least = float(np.sum(np.square(y - z @ np.linalg.lstsq(z, y)[0])))
    bound = least + share * (total - least)
    c = bounded_solution(gram, right, total=total, bound=bound)
    assert np.sum(np.square(y - z @ c.T)) == pytest.approx(bound, rel=1e-5)
    # Lagrange: at the smallest one the gradient of the error is a multiple of it.
    gradient = right - c @ gram
    ridge = np.sum(gradient * c) / np.sum(c * c)
    assert ridge > 0.0
    np.testing.assert_allclose(gradient, ridge * c, atol=1e-8 * np.abs(right).max())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.05, 2.0), st.integers(0, 99))
def test_limited_solution_is_the_best(rank, outputs, share, seed):
    z, y = normal((20, rank), seed), normal((20, outputs), seed + 1)
    gram, right = z.T @ z, y.T @ z
    plain = np.linalg.solve(gram, right.T).T
    energy = share * float(np.sum(plain * plain))
    c = limited_solution(gram, right, energy=energy)
    if share >= 1.0:
        np.testing.assert_allclose(c, plain, atol=1e-8)
        return
    assert np.sum(c * c) == pytest.approx(energy, rel=1e-5)
    gradient = right - c @ gram
    ridge = np.sum(gradient * c) / np.sum(c * c)
    assert ridge > 0.0
    np.testing.assert_allclose(gradient, ridge * c, atol=1e-8 * np.abs(right).max())


def plain(tensor, rank, max_sweeps, tolerance=1e-9):
    """Sweeps of least squares alone, as in any textbook."""
    sweeps, terms = Sweeps(tensor), terms_of(tensor.shape, rank)

    def solve(gram, right):
        return np.linalg.lstsq(gram, right.T)[0].T

    for _ in range(max_sweeps):
        terms, _ = sweeps.sweep(terms, solve)
    return terms


@pytest.mark.parametrize("rank", [8, 30])
def test_correction_keeps_the_error_and_shrinks_the_terms(rank):
    tensor = decaying((9, 24, 20))
    terms = plain(tensor, rank, 100)
    lost = float(np.sum(np.square(tensor - cp_to_tensor(*terms))))
    better = Sweeps(tensor).corrected(terms, lost)
    assert relative_error(tensor, better) == pytest.approx(
        relative_error(tensor, terms), rel=1e-5
    )
    assert energy_of(better) < 0.8 * energy_of(terms)


@pytest.mark.parametrize("shape", [(9, 16, 16), (9, 64, 64), (3, 4, 6)])
def test_a_tensor_without_a_best_approximation_is_told(shape):
    tensor = border(shape)
    # Plain sweeps come ever nearer, with terms that grow without bound.
    history = [plain(tensor, 2, sweeps) for sweeps in (20, 200, 2000)]
    errors = [relative_error(tensor, terms) for terms in history]
    sizes = [degeneracy(*terms, tensor) for terms in history]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01
    assert sizes == sorted(sizes) and sizes[-1] > 2.0 * DEGENERACY_LIMIT
    found = cp(tensor, 2)
    assert found.degenerate
    assert degeneracy(*found.terms, tensor) <= DEGENERACY_LIMIT * (1 + 1e-6)
    assert found.error < 0.02, "near, but not nearer than stable terms come"


def test_trained_like_kernels_do_not_degenerate():
    for shape in ((9, 32, 32), (9, 24, 48), (25, 16, 16)):
        tensor = decaying(shape)
        for share in (0.1, 0.3, 0.6):
            rank = int(share * tensor.size / sum(shape))
            assert not cp(tensor, rank).degenerate


def moments_of(rows, size):
    rows = rows.reshape(-1, size)
    return Moments(rows.T @ rows / len(rows), rows.mean(axis=0), len(rows))


def inputs(taps, n_in, seed=0):
    """Correlated patches, of uneven directions."""
    size = taps * n_in
    basis = np.linalg.qr(normal((size, size), seed))[0]
    return normal((2000, size), seed + 1) * np.arange(1, size + 1) ** -0.7 @ basis


def output_error(tensor, terms, rows):
    size = rows.shape[1]
    right = rows @ tensor.reshape(size, -1)
    found = rows @ cp_to_tensor(*terms).reshape(size, -1)
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize("whole", [True, False])
def test_white_inputs_give_the_plain_decomposition(whole):
    tensor = decaying((9, 8, 12))
    size = 72 if whole else 8
    moments = Moments(np.eye(size), np.zeros(size), 1)
    found = weighted_cp(tensor, 12, moments)
    assert found.error == pytest.approx(cp(tensor, 12).error, rel=0.01)
    assert found.error == pytest.approx(relative_error(tensor, found.terms), rel=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_moments_lower_the_error_of_the_outputs(whole):
    tensor = decaying((9, 8, 12))
    # Moments of channels are all there is to know where taps do not depend on another.
    rows = inputs(9, 8)
    if not whole:
        rows = np.hstack(
            [inputs(1, 8)[normal(2000, tap).argsort()] for tap in range(9)]
        )
    found = weighted_cp(tensor, 12, moments_of(rows, 72 if whole else 8))
    unaware = output_error(tensor, cp(tensor, 12).terms, rows)
    aware = output_error(tensor, found.terms, rows)
    assert aware < 0.8 * unaware
    assert found.error == pytest.approx(aware, rel=0.05)


def test_last_factor_is_the_regression_of_the_outputs():
    tensor, rows = decaying((9, 8, 12)), inputs(9, 8)
    a, b, c = weighted_cp(tensor, 10, moments_of(rows, 72)).terms
    hidden = rows @ (a[:, None, :] * b).reshape(72, -1)
    fitted = np.linalg.lstsq(hidden, rows @ tensor.reshape(72, -1))[0].T
    np.testing.assert_allclose(c, fitted, atol=0.02 * np.abs(fitted).max())


@pytest.mark.parametrize("seen", [None, 8, 72])
def test_estimated_errors_are_near_the_measured_ones(seen):
    tensor = decaying((9, 8, 12))
    moments = None if seen is None else moments_of(inputs(9, 8), seen)
    ranks = [1, 2, 3, 5, 8, 12, 16, 20, 40, 72]
    found = weighted_cp_errors(tensor, ranks, moments)
    right = [weighted_cp(tensor, rank, moments).error ** 2 for rank in ranks]
    for rank, one, other in zip(ranks, found, right, strict=True):
        # Short runs judge large ranks too harshly, never too well.
        near = 0.15 if rank <= 12 or rank >= 40 else 0.7
        assert one == pytest.approx(other, rel=near, abs=0.005), rank
        assert one > 0.85 * other - 1e-9


def test_estimated_errors_know_what_degenerates():
    errors = weighted_cp_errors(border((9, 16, 16)), [1, 2, 3])
    np.testing.assert_allclose(errors, [5 / 9, 1.0, 0.0], atol=1e-3)


def test_no_errors_where_nothing_can_be_lost():
    np.testing.assert_array_equal(weighted_cp_errors(np.zeros((9, 4, 5)), [1, 9]), 0.0)

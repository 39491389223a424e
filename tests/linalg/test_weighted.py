"""Decompositions in the metric of the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import (
    Moments,
    multi_mode_spectra,
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


def asymmetric_moments(seed):
    """Rows `x` of a network that has lost something, `z` of the right one."""
    rng = np.random.default_rng(seed)
    size = TAPS * IN
    z = rng.normal(size=(300, size)) @ rng.normal(size=(size, size)) + 0.3
    x = z @ (np.eye(size) + 0.1 * rng.normal(size=(size, size)))
    x += 0.5 * rng.normal(size=x.shape)
    moments = Moments(
        second=x.T @ x / len(x),
        mean=x.mean(axis=0),
        count=len(x),
        cross=x.T @ z / len(x),
        target_mean=z.mean(axis=0),
    )
    return x, z, moments


def unseen_case():
    """Large weights on channels that the calibration data never show."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, TAPS, IN)) * (np.arange(IN) < IN // 2)
    rows = rows.reshape(200, -1)
    tensor = random_tensor(1)
    tensor[:, IN // 2 :] *= 100.0
    return tensor, Moments(rows.T @ rows / 200, rows.mean(axis=0), 200)


def full_metric(moments):
    """That of whole patches, as an explicit matrix."""
    return np.kron(np.eye(TAPS * IN // moments.size), moments.metric)


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
        other = right + scale * rng.normal(size=right.shape)
        assert best <= lost(matrix, near @ other, moments) + 1e-12
        # The strongest rival: outputs projected on another subspace.
        q = np.linalg.qr(other.T)[0]
        assert best <= lost(matrix, matrix @ q @ q.T, moments) + 1e-12


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


@pytest.mark.parametrize("ranks", [(3, 4), (1, 1), (6, 2), (2, 7)])
def test_without_correlations_it_is_the_plain_tucker2(ranks):
    tensor = random_tensor(1)
    plain = tucker2(tensor, ranks)
    for one, other in zip(weighted_tucker2(tensor, ranks), plain, strict=True):
        np.testing.assert_array_equal(one, other)
    expected = tucker2_to_tensor(*plain)
    channels = Moments(2.5 * np.eye(IN), np.zeros(IN), 1)
    found = tucker2_to_tensor(*weighted_tucker2(tensor, ranks, channels))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    # Of patches: core and output basis are fitted to the same input basis once more.
    patches = Moments(2.5 * np.eye(TAPS * IN), np.zeros(TAPS * IN), 1)
    aware = lost(
        tensor, tucker2_to_tensor(*weighted_tucker2(tensor, ranks, patches)), patches
    )
    assert aware <= lost(tensor, expected, patches) + 1e-12


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


@settings(max_examples=25, deadline=None)
@given(
    rank_in=st.integers(1, IN),
    rank_out=st.integers(1, OUT),
    directions=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 999),
)
def test_bounds_of_weighted_tucker2(rank_in, rank_out, directions, seed):
    tensor, ranks = random_tensor(seed), (rank_in, rank_out)
    channels = random_moments(seed, size=IN, directions=directions)
    found = lost(
        tensor, tucker2_to_tensor(*weighted_tucker2(tensor, ranks, channels)), channels
    )
    # Those of the HOSVD, on the whitened tensor: each mode's tail, and their sum.
    white = channels.whiten(tensor.reshape(-1, OUT)).reshape(tensor.shape)
    tails = [
        np.sum(np.square(values[rank:])) / np.sum(np.square(white))
        for values, rank in zip(multi_mode_spectra(white), ranks, strict=True)
    ]
    assert max(tails) - 1e-9 <= found <= sum(tails) + 1e-9


@settings(max_examples=25, deadline=None)
@given(
    rank_in=st.integers(1, IN),
    rank_out=st.integers(1, OUT),
    directions=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 999),
)
def test_moments_of_patches_lose_no_more_than_their_channels(
    rank_in, rank_out, directions, seed
):
    """From one input basis both start; the fit to whole patches is the best."""
    tensor, ranks = random_tensor(seed), (rank_in, rank_out)
    patches = random_moments(seed, directions=directions)
    by_patch, by_channel = (
        lost(tensor, tucker2_to_tensor(*weighted_tucker2(tensor, ranks, used)), patches)
        for used in (patches, patches.channels(IN))
    )
    assert by_patch <= by_channel + 1e-9


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


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("size", [None, TAPS * IN, IN])
def test_errors_of_many_ranks_are_those_of_the_svd(size, directions):
    moments = size and random_moments(7, size=size, directions=directions)
    metric = moments or Moments(np.eye(IN), np.zeros(IN), 1)
    matrix = random_tensor(8).reshape(-1, OUT)
    ranks = [7, 1, 3, 3]
    built = [
        lost(matrix, np.matmul(*weighted_svd(matrix, rank, moments)), metric)
        for rank in ranks
    ]
    np.testing.assert_allclose(
        weighted_svd_errors(matrix, ranks, moments), built, atol=1e-9
    )


def hosvd_error(tensor, ranks, moments):
    """Of the truncated HOSVD, from explicit matrices: the whitened tensor's input
    basis, then the best rank of the outputs that patches projected by it allow."""
    channels = moments.channels(IN)
    unfolded = np.moveaxis(np.matmul(channels.root.T, tensor), 1, 0).reshape(IN, -1)
    basis = np.linalg.solve(channels.root.T, np.linalg.svd(unfolded)[0][:, : ranks[0]])
    root = np.linalg.cholesky(full_metric(moments)).T
    q = np.linalg.qr(root @ np.kron(np.eye(TAPS), basis))[0]
    outputs = root @ tensor.reshape(-1, OUT)
    values = np.linalg.svd(q.T @ outputs, compute_uv=False)[: ranks[1]]
    return 1.0 - np.sum(np.square(values)) / np.sum(np.square(outputs))


PAIRS = [(2, 3), (6, 7), (6, 2), (2, 7), (1, 1), (4, 5), (1, 7), (2, 3)]


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("size", [TAPS * IN, IN])
def test_errors_of_many_ranks_are_those_of_the_hosvd(size, directions):
    moments = random_moments(7, size=size, directions=directions)
    tensor = random_tensor(8)
    expected = [hosvd_error(tensor, pair, moments) for pair in PAIRS]
    found = weighted_tucker2_errors(tensor, PAIRS, moments)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_errors_count_what_the_data_never_show():
    tensor, moments = unseen_case()
    expected = [hosvd_error(tensor, pair, moments) for pair in PAIRS]
    assert expected[0] > 0.5
    found = weighted_tucker2_errors(tensor, PAIRS, moments)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("size", [None, TAPS * IN, IN])
def test_errors_of_many_ranks_are_near_those_of_the_factors(size, directions):
    moments = size and random_moments(7, size=size, directions=directions)
    metric = moments or Moments(np.eye(IN), np.zeros(IN), 1)
    tensor = random_tensor(8)
    built = np.array(
        [
            lost(
                tensor, tucker2_to_tensor(*weighted_tucker2(tensor, r, moments)), metric
            )
            for r in PAIRS
        ]
    )
    predicted = weighted_tucker2_errors(tensor, PAIRS, moments)
    np.testing.assert_allclose(predicted, built, rtol=0.1, atol=1e-9)
    if size != TAPS * IN:
        # Sweeps can only have helped.
        assert np.all(built <= predicted + 1e-9)


def test_errors_of_a_zero_kernel():
    zeros = np.zeros((TAPS, IN, OUT))
    moments = random_moments(9)
    assert np.all(weighted_svd_errors(zeros.reshape(-1, OUT), [1, 2], moments) == 0)
    assert np.all(weighted_tucker2_errors(zeros, [(1, 1)], moments) == 0)


def reduced_rank_error(x, outputs, rank):
    """Least error of a rank-`rank` regression of the outputs on `x` (Izenman 1975)."""
    best = x @ np.linalg.lstsq(x, outputs, rcond=None)[0]
    values = np.linalg.svd(best, compute_uv=False)
    return np.sum(np.square(outputs - best)) + np.sum(np.square(values[rank:]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rank", [2, 4, 7])
def test_asymmetric_svd_comes_nearest_to_the_right_outputs(rank, seed):
    x, z, moments = asymmetric_moments(seed)
    matrix = random_tensor(seed).reshape(-1, OUT)
    outputs = z @ matrix

    def error(wanted):
        factors = weighted_svd(wanted, rank, moments)
        return np.sum(np.square(x @ np.matmul(*factors) - outputs))

    asymmetric = error(moments.target(matrix))
    assert asymmetric < 0.95 * error(matrix)
    # No factors of this rank do better; the ridge costs a little.
    best = reduced_rank_error(x, outputs, rank)
    assert best * (1.0 - 1e-9) <= asymmetric <= 1.01 * best


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ranks", [(3, 4), (5, 5), (6, 7)])
def test_asymmetric_tucker2_comes_nearer_to_the_right_outputs(ranks, seed):
    x, z, moments = asymmetric_moments(seed)
    tensor = random_tensor(seed)
    wanted = moments.target(tensor.reshape(-1, OUT)).reshape(tensor.shape)

    def error(kernel):
        found = tucker2_to_tensor(*weighted_tucker2(kernel, ranks, moments))
        difference = x @ found.reshape(-1, OUT) - z @ tensor.reshape(-1, OUT)
        return np.sum(np.square(difference))

    assert error(wanted) < error(tensor)


def test_rank_deficient_moments_of_few_rows_give_finite_factors():
    """One row, the fewest there can be; and inputs that are all zero."""
    row = np.random.default_rng(0).normal(size=TAPS * IN)
    for second in (np.outer(row, row), np.zeros((TAPS * IN, TAPS * IN))):
        moments = Moments(second, row, 1)
        for used in (moments, moments.channels(IN)):
            tensor = random_tensor(3)
            parts = (
                *weighted_svd(tensor.reshape(-1, OUT), 3, used),
                *weighted_tucker2(tensor, (3, 4), used),
                weighted_svd_errors(tensor.reshape(-1, OUT), [1, 3], used),
                weighted_tucker2_errors(tensor, PAIRS, used),
            )
            assert all(np.all(np.isfinite(part)) for part in parts)


def test_the_callers_arrays_are_left_alone():
    tensor, moments = random_tensor(4), random_moments(4)
    kernel, second = tensor.copy(), moments.second.copy()
    weighted_svd(tensor.reshape(-1, OUT), 3, moments)
    weighted_tucker2(tensor, (3, 4), moments)
    weighted_tucker2_errors(tensor, PAIRS, moments)
    np.testing.assert_array_equal(tensor, kernel)
    np.testing.assert_array_equal(moments.second, second)


@pytest.mark.parametrize("size", [IN // 2, 2 * IN, TAPS * IN + 1])
def test_moments_of_another_kernel(size):
    moments = Moments(np.eye(size), np.zeros(size), 1)
    for function in (
        lambda: weighted_tucker2(random_tensor(0), (2, 2), moments),
        lambda: weighted_tucker2_errors(random_tensor(0), [(2, 2)], moments),
    ):
        with pytest.raises(ValueError, match=rf"{size} inputs, a kernel of 4 taps of"):
            function()


@pytest.mark.parametrize("ranks", [(0, 2), (2, 0), (IN + 1, 2), (2, OUT + 1)])
@pytest.mark.parametrize("size", [None, IN, TAPS * IN])
def test_rank_out_of_range(size, ranks):
    moments = size and random_moments(0, size=size)
    with pytest.raises(ValueError, match=r"ranks must lie in .* Received"):
        weighted_tucker2(random_tensor(0), ranks, moments)


@pytest.mark.parametrize("rank", [0, OUT + 1])
def test_svd_rank_out_of_range(rank):
    for moments in (None, random_moments(0)):
        with pytest.raises(ValueError, match=r"rank must lie in .* Received"):
            weighted_svd(random_tensor(0).reshape(-1, OUT), rank, moments)


def test_rebalanced_keeps_the_product():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(5, 3)) * [1e3, 1.0, 0.0], rng.normal(size=(3, 4))
    a, b = rebalanced(left, right)
    np.testing.assert_allclose(a @ b, left @ right)
    norms = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(norms[0][:2], norms[1][:2])


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 8),
    rank=st.integers(1, 5),
    n=st.integers(1, 8),
    seed=st.integers(0, 999),
)
def test_rebalanced_factors_of_any_scale(m, rank, n, seed):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-6, 6, size=rank)
    left, right = rng.normal(size=(m, rank)) * scales, rng.normal(size=(rank, n))
    a, b = rebalanced(left, right)
    np.testing.assert_allclose(a @ b, left @ right, rtol=1e-9, atol=1e-9 * scales.max())
    norms = np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(*norms)

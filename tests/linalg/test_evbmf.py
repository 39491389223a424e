"""EVBMF: planted ranks are found, noise is none, and the documented trap is real."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import evbmf, evbmf_noise_variance, evbmf_rank, singular_values

SHAPES = [(120, 40), (40, 120), (80, 80)]


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(shape, rank, *, noise, seed=0):
    """A matrix whose `rank` singular values stand well above the noise."""
    m, n = shape
    u = np.linalg.qr(normal((m, rank), seed))[0]
    v = np.linalg.qr(normal((n, rank), seed + 1))[0]
    edge = noise * (np.sqrt(m) + np.sqrt(n))
    strength = edge * np.linspace(6.0, 3.0, rank)
    return (u * strength) @ v.T + noise * normal(shape, seed + 2)


def published(matrix):
    """Rank and noise variance as the published code finds them, step by step.

    Written from research/low_rank.md section 1 and Nakajima et al. 2013: `(rank,
    sigma2, energy)`, the last the function that sigma2 minimises.
    """
    matrix = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    length, width = matrix.shape
    s = np.linalg.svd(matrix, compute_uv=False)
    alpha = length / width
    tau_bar = 2.5129 * alpha**0.5
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)

    def energy(sigma2):
        total = 0.0
        for value in s:
            x = value**2 / (width * sigma2)
            if x > x_bar:
                b = x - (1 + alpha)
                tau = (b + (b**2 - 4 * alpha) ** 0.5) / 2
                total += x - tau + np.log((tau + 1) / x)
                total += alpha * np.log(tau / alpha + 1)
            else:
                total += x - np.log(x)
        return total

    first = int(min(np.ceil(length / (1 + alpha)) - 1, length))
    upper = np.sum(s**2) / (length * width)
    lower = max(s[first] ** 2 / (width * x_bar), np.mean(s[first:] ** 2) / width)
    sigma2 = scipy.optimize.minimize_scalar(
        energy, bounds=(lower, upper), method="bounded", options={"xatol": 1e-12}
    ).x
    threshold = (width * sigma2 * (1 + tau_bar) * (1 + alpha / tau_bar)) ** 0.5
    return int(np.sum(s > threshold)), sigma2, energy


@pytest.mark.parametrize("noise", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("rank", [1, 5, 12])
@pytest.mark.parametrize("shape", SHAPES)
def test_planted_rank_is_found(shape, rank, noise):
    matrix = planted(shape, rank, noise=noise)
    values = singular_values(matrix)
    assert evbmf_rank(values, shape) == rank
    assert evbmf_noise_variance(values, shape) == pytest.approx(noise**2, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_pure_noise_has_rank_zero(shape, seed):
    assert evbmf_rank(singular_values(normal(shape, seed)), shape) == 0


@pytest.mark.parametrize("rank", [0, 3, 9])
@pytest.mark.parametrize("shape", [*SHAPES, (17, 90)])
def test_agrees_with_the_published_procedure(shape, rank):
    matrix = planted(shape, rank, noise=0.5) if rank else normal(shape)
    values = singular_values(matrix)
    expected_rank, expected_variance, _ = published(matrix)
    assert evbmf_rank(values, shape) == expected_rank
    assert evbmf_noise_variance(values, shape) == pytest.approx(
        expected_variance, rel=1e-3
    )


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_power_law_spectrum(exponent):
    """No gap, as in trained kernels: the energy has several minima close by.

    The search on a logarithmic scale finds one no higher than the published search,
    so ranks may differ by one.
    """
    values = np.arange(1.0, 65.0) ** -exponent
    matrix = np.eye(64, 96) * values[:, None]
    rank, variance, energy = published(matrix)
    found = evbmf_noise_variance(values, matrix.shape)
    assert energy(found) <= energy(variance) + 1e-8 * abs(energy(variance))
    assert found == pytest.approx(variance, rel=0.1)
    assert abs(evbmf_rank(values, matrix.shape) - rank) <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 99))
def test_scale_and_transposition_do_not_matter(short, long, seed):
    matrix = normal((short, long), seed)
    matrix += 3.0 * np.outer(normal(short, seed + 1), normal(long, seed + 2))
    values = singular_values(matrix)
    rank = evbmf_rank(values, (short, long))
    assert rank == evbmf_rank(values, (long, short))
    assert rank == evbmf_rank(values[::-1], (short, long))
    assert rank == evbmf_rank(1e-3 * values, (short, long))
    assert 0 <= rank <= min(short, long)


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.zeros((6, 9)), 0),
        (np.zeros((1, 1)), 0),
        (np.outer(normal(20), normal(30, 1)), 1),
        (normal((30, 4)) @ normal((4, 20), 1), 4),
        (normal((20, 4)) @ normal((4, 30), 1), 4),
        (normal((30, 4)) @ normal((4, 30), 1), 4),
    ],
    ids=["zero", "zero 1x1", "rank 1", "tall rank 4", "wide rank 4", "square rank 4"],
)
def test_matrices_without_noise(matrix, rank):
    """A matrix of exactly low rank keeps that rank: it has no noise floor."""
    values = singular_values(matrix)
    assert evbmf_rank(values, matrix.shape) == rank
    total = np.sum(values**2)
    assert evbmf_noise_variance(values, matrix.shape) <= 1e-6 * total


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (2, 300)])
def test_tiny_matrices_do_not_crash(shape):
    for matrix in (normal(shape), np.ones(shape), np.eye(*shape)):
        values = singular_values(matrix)
        variance = evbmf_noise_variance(values, shape)
        assert np.isfinite(variance) and variance >= 0.0
        assert 0 <= evbmf_rank(values, shape) <= min(shape)


def test_truncated_weights_need_the_noise_of_the_untouched_ones():
    """The trap of low_rank.md section 1, t3.py: a second estimate shrinks signal."""
    # A Tucker core's unfolding: 128 channels, 9 taps, 32 of the directions signal.
    signal = normal((128, 32)) @ normal((32, 9 * 128), 1) / np.sqrt(32)
    matrix = signal + 0.5 * normal(signal.shape, 2)
    values = singular_values(matrix)
    shape = matrix.shape
    variance = evbmf_noise_variance(values, shape)
    assert evbmf_rank(values, shape, noise_variance=variance) == 32
    truncated = values[:32]
    assert evbmf_rank(truncated, shape, noise_variance=variance) == 32
    assert evbmf_rank(truncated, (32, 9 * 32)) < 16


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_are_a_shrunken_svd(shape):
    matrix = planted(shape, 4, noise=1.0)
    u, s, vt, variance = evbmf(matrix)
    exact = np.linalg.svd(matrix, compute_uv=False)[:4]
    assert s.shape == (4,)
    assert np.all(s < exact) and np.all(s > 0.5 * exact)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(vt @ vt.T, np.eye(4), atol=1e-10)
    assert variance == pytest.approx(1.0, rel=0.1)
    # Shrinking is why it is used: nearer to the signal than the plain truncation.
    signal = matrix - 1.0 * normal(shape, 2)
    plain = np.linalg.norm((u * exact) @ vt - signal)
    assert np.linalg.norm((u * s) @ vt - signal) < plain


def test_factors_of_noise_are_empty():
    u, s, vt, _ = evbmf(normal((30, 20)))
    assert (u.shape, s.shape, vt.shape) == ((30, 0), (0,), (0, 20))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights_raise(value):
    matrix = normal((6, 9))
    matrix[2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        evbmf(matrix)
    values = np.array([3.0, value, 1.0])
    for function in (evbmf_rank, evbmf_noise_variance):
        with pytest.raises(ValueError, match="NaN or infinity.*Received: 1 such"):
            function(values, (3, 5))


@pytest.mark.parametrize("shape", [(2, 9), (0, 3)])
def test_values_of_another_shape(shape):
    with pytest.raises(ValueError, match="shape must be that of the matrix"):
        evbmf_rank(np.ones(3), shape)

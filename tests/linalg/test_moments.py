"""Moments of a layer's inputs: the metric of its output error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.linalg import Moments
from tfcompress.linalg.moments import RIDGE

TAPS, CHANNELS, OUT = 4, 3, 5


def rows_of(seed, count=400, size=TAPS * CHANNELS):
    """Correlated rows that are not centred."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + 0.5


def moments_of(x, z=None):
    return Moments(
        second=x.T @ x / len(x),
        mean=x.mean(axis=0),
        count=len(x),
        cross=None if z is None else x.T @ z / len(x),
        target_mean=None if z is None else z.mean(axis=0),
    )


@pytest.fixture
def x():
    return rows_of(0)


@pytest.fixture
def matrix():
    return np.random.default_rng(1).normal(size=(TAPS * CHANNELS, OUT))


def test_metric_is_the_second_moment_and_a_ridge(x):
    moments = moments_of(x)
    ridge = RIDGE * np.trace(moments.second) / moments.size
    expected = moments.second + ridge * np.eye(moments.size)
    np.testing.assert_allclose(moments.metric, expected)
    np.testing.assert_allclose(moments.root @ moments.root.T, expected)
    np.testing.assert_array_equal(moments.root, np.tril(moments.root))


def test_inputs_that_are_always_zero_have_a_metric():
    moments = moments_of(np.zeros((10, 3)))
    np.testing.assert_array_equal(moments.metric, np.eye(3))


@pytest.mark.parametrize("value", [0.1, 3.7])
def test_constant_inputs_have_a_metric_when_centred(value):
    """What is left of their covariances is rounding, and no variance."""
    x = np.full((200, 5), value) * [1.0, 1.3, 0.7, 2.1, 0.1]
    centred = moments_of(x).centred()
    np.linalg.cholesky(centred.metric)
    np.testing.assert_allclose(centred.root @ centred.root.T, centred.metric)


def test_covariances_lost_to_rounding_have_a_metric():
    """Sums in float32 of inputs far from zero: some variances come out negative."""
    rng = np.random.default_rng(0)
    x = 293.0 + rng.normal(size=(1024, 4)) @ rng.normal(size=(4, 32))
    single = x.astype(np.float32)
    moments = Moments(
        second=(single.T @ single).astype(np.float64) / len(x),
        mean=single.sum(axis=0).astype(np.float64) / len(x),
        count=len(x),
    )
    centred = moments.centred()
    lowest = np.linalg.eigvalsh(centred.second)[0]
    ridge = RIDGE * np.trace(centred.second) / centred.size
    assert lowest < -ridge  # Else the case does not test what it is to test.
    assert np.linalg.eigvalsh(centred.metric)[0] == pytest.approx(ridge - lowest)
    # As much as rounding has spoiled, and no more.
    exact = np.cov(x.T, bias=True)
    spoiled = np.linalg.norm(centred.second - exact, 2)
    assert np.linalg.norm(centred.metric - centred.second, 2) < 3.0 * spoiled + ridge


def test_output_energy_is_the_mean_squared_output(x, matrix):
    moments = moments_of(x)
    ridge = moments.metric - moments.second
    expected = np.mean(np.sum(np.square(x @ matrix), axis=1))
    expected += np.trace(matrix.T @ ridge @ matrix)
    assert moments.output_energy(matrix) == pytest.approx(expected)
    np.testing.assert_allclose(
        moments.gram(matrix), matrix.T @ moments.metric @ matrix, rtol=1e-9
    )


def test_unwhiten_is_the_inverse_of_whiten(x, matrix):
    moments = moments_of(x)
    np.testing.assert_allclose(moments.unwhiten(moments.whiten(matrix)), matrix)
    np.testing.assert_allclose(moments.whiten(moments.unwhiten(matrix)), matrix)


@settings(max_examples=25, deadline=None)
@given(
    taps=st.integers(1, 5),
    size=st.integers(1, 6),
    directions=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_whitening_of_any_moments(taps, size, directions, seed):
    """Rank-deficient ones too: invertible, and the norm that the metric gives."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, directions)) @ rng.normal(size=(directions, size))
    moments = moments_of(x)
    kernel = rng.normal(size=(taps * size, 3))
    white = moments.whiten(kernel)
    np.testing.assert_allclose(moments.unwhiten(white), kernel, atol=1e-9)
    full = np.kron(np.eye(taps), moments.metric)
    np.testing.assert_allclose(white.T @ white, kernel.T @ full @ kernel, atol=1e-9)


def test_centred_moments_are_covariances(x):
    z = rows_of(2)
    centred = moments_of(x, z).centred()
    np.testing.assert_allclose(centred.second, np.cov(x.T, bias=True))
    expected = (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)
    np.testing.assert_allclose(centred.cross, expected, atol=1e-12)


def test_moments_of_channels_are_a_block_diagonal_metric(x, matrix):
    """Taps count as independent: the metric is `I` Kronecker the channels' one."""
    channels = moments_of(rows_of(3, size=CHANNELS))
    full = np.kron(np.eye(TAPS), channels.metric)
    np.testing.assert_allclose(channels.gram(matrix), matrix.T @ full @ matrix)
    np.testing.assert_allclose(channels.unwhiten(channels.whiten(matrix)), matrix)
    energy = np.trace(matrix.T @ full @ matrix)
    assert channels.output_energy(matrix) == pytest.approx(energy)
    np.testing.assert_allclose(
        channels.patch_mean(len(matrix)), np.tile(channels.mean, TAPS)
    )


def test_channels_average_over_the_taps(x):
    taps = x.reshape(-1, CHANNELS)
    channels = moments_of(x).channels(CHANNELS)
    np.testing.assert_allclose(channels.second, taps.T @ taps / len(taps))
    np.testing.assert_allclose(channels.mean, taps.mean(axis=0))
    assert channels.count == len(taps)
    assert channels.channels(CHANNELS) is channels
    assert channels.cross is None


def test_channels_keep_what_the_uncompressed_network_sees(x):
    z = rows_of(11)
    channels = moments_of(x, z).channels(CHANNELS)
    taps, targets = x.reshape(-1, CHANNELS), z.reshape(-1, CHANNELS)
    np.testing.assert_allclose(channels.cross, taps.T @ targets / len(taps))
    np.testing.assert_allclose(channels.target_mean, targets.mean(axis=0))


def test_projection_is_that_of_the_rows(x):
    z = rows_of(4)
    basis = np.random.default_rng(5).normal(size=(CHANNELS, 2))

    def projected(rows):
        return (rows.reshape(-1, TAPS, CHANNELS) @ basis).reshape(len(rows), -1)

    found = moments_of(x, z).project(basis)
    expected = moments_of(projected(x), projected(z))
    for name in ("second", "mean", "cross", "target_mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name))
    plain = moments_of(x).project(basis)
    assert plain.cross is None
    assert plain.target_mean is None


def test_target_is_the_regression_of_the_right_outputs(matrix):
    x = rows_of(6)
    turn = np.random.default_rng(7).normal(size=(x.shape[1], x.shape[1]))
    z = x + 0.2 * x @ turn + 0.3 * rows_of(7)
    target = moments_of(x, z).target(matrix)
    best, *_ = np.linalg.lstsq(x, z @ matrix, rcond=None)

    def error(kernel):
        return np.mean(np.square(x @ kernel - z @ matrix))

    # The ridge costs a little.
    assert error(best) <= error(target) <= 1.01 * error(best)
    assert error(target) < 0.9 * error(matrix)


def test_target_solves_the_normal_equations(x, matrix):
    """Of least squares with a ridge that draws towards the kernel as it is."""
    z = x + 0.3 * rows_of(12)
    moments = moments_of(x, z)
    ridge = RIDGE * np.trace(moments.second) / moments.size
    root = np.sqrt(ridge * len(x)) * np.eye(moments.size)
    inputs = np.concatenate([x, root])
    outputs = np.concatenate([z @ matrix, root @ matrix])
    best, *_ = np.linalg.lstsq(inputs, outputs, rcond=None)
    np.testing.assert_allclose(moments.target(matrix), best, atol=1e-9)


def test_target_of_equal_inputs_is_the_kernel(x, matrix):
    assert moments_of(x).target(matrix) is matrix
    np.testing.assert_allclose(moments_of(x, x).target(matrix), matrix)


def test_target_by_channels(matrix):
    x = rows_of(8, size=CHANNELS)
    z = x + 0.5 * rows_of(9, size=CHANNELS)
    moments = moments_of(x, z)
    blocks = matrix.reshape(TAPS, CHANNELS, OUT)
    expected = np.concatenate([moments.target(block) for block in blocks])
    np.testing.assert_allclose(moments.target(matrix), expected)
    # By explicit matrices: taps that do not know of each other.
    ridge = moments.metric - moments.second
    eye = np.eye(TAPS)
    full = np.linalg.solve(
        np.kron(eye, moments.metric), np.kron(eye, moments.cross + ridge) @ matrix
    )
    np.testing.assert_allclose(moments.target(matrix), full)


def test_mean_response_is_that_of_the_uncompressed_network(x, matrix):
    z = rows_of(10)
    np.testing.assert_allclose(
        moments_of(x).mean_response(matrix), (x @ matrix).mean(axis=0)
    )
    asymmetric = moments_of(x, z)
    np.testing.assert_allclose(
        asymmetric.mean_response(matrix), (z @ matrix).mean(axis=0)
    )
    np.testing.assert_array_equal(asymmetric.patch_mean(12), asymmetric.mean)
    np.testing.assert_array_equal(
        asymmetric.patch_mean(12, target=True), asymmetric.target_mean
    )


def test_the_moments_are_left_alone(x, matrix):
    z = rows_of(13)
    moments = moments_of(x, z)
    fields = ("second", "mean", "cross", "target_mean")
    before = [getattr(moments, name).copy() for name in fields]
    kernel = matrix.copy()
    moments.centred().unwhiten(moments.whiten(matrix))
    moments.project(np.ones((CHANNELS, 1))).channels(1)
    moments.channels(CHANNELS).target(moments.target(matrix))
    for name, old in zip(fields, before, strict=True):
        np.testing.assert_array_equal(getattr(moments, name), old)
    np.testing.assert_array_equal(matrix, kernel)


@pytest.mark.parametrize("name", ["whiten", "unwhiten", "gram", "mean_response"])
def test_moments_of_another_layer(x, name):
    with pytest.raises(ValueError, match=r"12 inputs, a kernel of 13 rows"):
        getattr(moments_of(x), name)(np.zeros((13, 2)))


def test_target_for_another_layer(x):
    with pytest.raises(ValueError, match=r"12 inputs, a kernel of 13 rows"):
        moments_of(x, x).target(np.zeros((13, 2)))


def test_patch_mean_for_another_layer(x):
    with pytest.raises(ValueError, match=r"12 inputs, a kernel of 13 rows"):
        moments_of(x).patch_mean(13)


@pytest.mark.parametrize("count", [5, 13])
def test_channels_of_another_layer(x, count):
    with pytest.raises(ValueError, match=rf"12 inputs, a kernel of {count} channels"):
        moments_of(x).channels(count)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_moments_are_named(value):
    second = np.eye(3)
    second[1, 1] = value
    with pytest.raises(ValueError, match=r"NaN or infinity.*Received: 1 such"):
        Moments(second, np.zeros(3), 1).whiten(np.ones((3, 2)))

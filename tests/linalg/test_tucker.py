"""Tucker-2: orthonormal factors, exact at full rank, as good as TensorLy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot

from tfcompress.linalg import multi_mode_spectra, tucker2, tucker2_to_tensor


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(shape, ranks, noise, seed=0):
    taps, n_in, n_out = shape
    core = normal((taps, *ranks), seed)
    u, v = normal((n_in, ranks[0]), seed + 1), normal((n_out, ranks[1]), seed + 2)
    signal = tucker2_to_tensor(core, u, v)
    spread = noise * signal.std()
    return signal + spread * normal(shape, seed + 3)


def relative_error(tensor, factors):
    return np.linalg.norm(tensor - tucker2_to_tensor(*factors)) / np.linalg.norm(tensor)


@st.composite
def tensors_and_ranks(draw):
    shape = (
        draw(st.integers(1, 9)),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
    )
    ranks = draw(st.integers(1, shape[1])), draw(st.integers(1, shape[2]))
    return normal(shape, draw(st.integers(0, 999))), ranks


@settings(max_examples=40, deadline=None)
@given(tensors_and_ranks())
def test_invariants(case):
    tensor, ranks = case
    core, u_in, u_out = factors = tucker2(tensor, ranks)
    taps, n_in, n_out = tensor.shape
    assert core.shape == (taps, *ranks)
    np.testing.assert_allclose(u_in.T @ u_in, np.eye(ranks[0]), atol=1e-10)
    np.testing.assert_allclose(u_out.T @ u_out, np.eye(ranks[1]), atol=1e-10)
    # An orthogonal projection: what is kept and what is lost are at right angles.
    kept = np.linalg.norm(core) ** 2
    lost = np.linalg.norm(tensor - tucker2_to_tensor(*factors)) ** 2
    assert kept + lost == pytest.approx(np.linalg.norm(tensor) ** 2)
    # No better than each mode's own bound, no worse than the sum of both (HOSVD).
    tails = [
        np.sum(np.square(values[rank:]))
        for values, rank in zip(multi_mode_spectra(tensor), ranks, strict=True)
    ]
    slack = 1e-9 * np.linalg.norm(tensor) ** 2
    assert max(tails) - slack <= lost <= sum(tails) + slack


@settings(max_examples=20, deadline=None)
@given(tensors_and_ranks())
def test_iteration_is_never_worse_than_its_start(case):
    tensor, ranks = case
    errors = [
        relative_error(tensor, tucker2(tensor, ranks, sweeps=sweeps))
        for sweeps in (0, 1, 2, 10)
    ]
    assert all(b <= a + 1e-7 for a, b in zip(errors, errors[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(tensors_and_ranks(), st.integers(0, 99))
def test_error_does_not_depend_on_the_basis(case, seed):
    """What makes re-factorization in core form exact, saturated ranks included."""
    tensor, ranks = case
    _, n_in, n_out = tensor.shape
    q_in = np.linalg.qr(normal((n_in + 3, n_in), seed))[0]
    q_out = np.linalg.qr(normal((n_out + 2, n_out), seed + 1))[0]
    turned = tucker2_to_tensor(tensor, q_in, q_out)
    one, other = (relative_error(t, tucker2(t, ranks)) for t in (tensor, turned))
    assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("ranks", [(2, 5), (2, 4), (1, 3), (3, 1)])
def test_a_saturated_mode_leaves_the_other_its_own_bound(ranks):
    """Two taps let rank r through to at most 2r: no sweep follows null vectors."""
    tensor = normal((2, 5, 12) if ranks[0] < ranks[1] else (2, 12, 5))
    bound = max(
        np.sum(np.square(values[rank:]))
        for values, rank in zip(multi_mode_spectra(tensor), ranks, strict=True)
        if rank == min(ranks)
    )
    error = relative_error(tensor, tucker2(tensor, ranks))
    assert error**2 * np.linalg.norm(tensor) ** 2 == pytest.approx(bound)


@settings(max_examples=15, deadline=None)
@given(tensors_and_ranks())
def test_full_rank_is_exact(case):
    tensor, _ = case
    factors = tucker2(tensor, tensor.shape[1:])
    np.testing.assert_allclose(tucker2_to_tensor(*factors), tensor, atol=1e-10)


def test_planted_ranks_are_exact():
    tensor = planted((9, 30, 24), (5, 7), noise=0.0)
    assert relative_error(tensor, tucker2(tensor, (5, 7))) < 1e-7


@pytest.mark.parametrize(
    ("tensor", "ranks"),
    [
        (normal((9, 48, 32)), (12, 12)),
        (normal((9, 32, 48)), (8, 24)),
        (normal((25, 16, 40)), (6, 10)),
        (planted((9, 40, 40), (8, 12), noise=0.3), (8, 12)),
        (planted((9, 40, 24), (10, 10), noise=0.1), (6, 6)),
    ],
    ids=["noise", "noise wide", "5x5", "planted", "below planted"],
)
def test_as_good_as_tensorly(tensor, ranks):
    (core, factors), _ = partial_tucker(
        tensor, rank=list(ranks), modes=[1, 2], init="svd", n_iter_max=100, tol=1e-8
    )
    reference = multi_mode_dot(core, factors, modes=[1, 2])
    error = np.linalg.norm(tensor - reference) / np.linalg.norm(tensor)
    assert relative_error(tensor, tucker2(tensor, ranks)) <= 1.005 * error


def test_one_full_mode_is_the_truncated_svd_of_the_other():
    tensor = normal((9, 12, 20))
    tail = np.linalg.norm(multi_mode_spectra(tensor)[1][6:]) / np.linalg.norm(tensor)
    assert relative_error(tensor, tucker2(tensor, (12, 6))) == pytest.approx(tail)


@pytest.mark.parametrize("shape", [(9, 5, 7), (1, 8, 3), (4, 1, 30), (2, 30, 4)])
def test_spectra_are_those_of_the_unfoldings(shape):
    tensor = normal(shape)
    for mode, values in zip((1, 2), multi_mode_spectra(tensor), strict=True):
        unfolded = np.moveaxis(tensor, mode, 0).reshape(shape[mode], -1)
        exact = np.linalg.svd(unfolded, compute_uv=False)
        np.testing.assert_allclose(values, exact, atol=1e-6)


def test_float32_of_many_channels():
    """Above 256 channels the work is done in float32."""
    tensor = planted((1, 300, 40), (6, 5), noise=0.1).astype(np.float32)
    core, u_in, u_out = tucker2(tensor, (6, 5))
    assert core.dtype == np.float32
    np.testing.assert_allclose(u_in.T @ u_in, np.eye(6), atol=1e-5)
    assert relative_error(tensor, (core, u_in, u_out)) < 0.105


def test_zero_tensor():
    factors = tucker2(np.zeros((9, 4, 6)), (2, 3))
    np.testing.assert_array_equal(tucker2_to_tensor(*factors), np.zeros((9, 4, 6)))


@pytest.mark.parametrize("ranks", [(0, 2), (2, 0), (5, 2), (2, 7)])
def test_rank_out_of_range(ranks):
    with pytest.raises(ValueError, match=r"\[1, 4\] x \[1, 6\]. Received"):
        tucker2(np.ones((9, 4, 6)), ranks)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_broken_weights_are_named(value):
    tensor = np.ones((9, 4, 6))
    tensor[0, 1, 2] = value
    for function in (multi_mode_spectra, lambda x: tucker2(x, (2, 2))):
        with pytest.raises(ValueError, match="NaN or infinity.*Received: 1 such"):
            function(tensor)


def test_what_is_no_kernel():
    with pytest.raises(ValueError, match="non-empty tensor"):
        tucker2(np.ones((3, 3, 4, 6)), (2, 2))

"""Tucker-2: orthonormal factors, exact at full rank, as good as TensorLy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker
from tensorly.tenalg import multi_mode_dot

from tfcompress.linalg import (
    blas,
    multi_mode_spectra,
    tucker,
    tucker2,
    tucker2_to_tensor,
)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def planted(shape, ranks, noise, seed=0):
    taps, n_in, n_out = shape
    core = normal((taps, *ranks), seed)
    u, v = normal((n_in, ranks[0]), seed + 1), normal((n_out, ranks[1]), seed + 2)
    signal = tucker2_to_tensor(core, u, v)
    spread = noise * signal.std()
    return signal + spread * normal(shape, seed + 3)


def decaying(shape, exponent, seed=0):
    """Channel modes whose singular values fall by a power law, in random bases."""
    tensor = normal(shape, seed)
    mixing = (
        np.linalg.qr(normal((n, n), seed + 1))[0] * np.arange(1.0, n + 1) ** -exponent
        for n in shape[1:]
    )
    return tucker2_to_tensor(tensor, *mixing)


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
        (normal((9, 96, 80)), (48, 40)),
        (normal((9, 96, 80)).astype(np.float32), (48, 40)),
        (normal((9, 20, 96)), (10, 60)),
        (decaying((9, 80, 96), 0.5), (40, 48)),
        (decaying((9, 80, 96), 1.0).astype(np.float32), (20, 48)),
    ],
    ids=[
        *("noise", "noise wide", "5x5", "planted", "below planted"),
        *("large noise", "large noise float32", "one large mode"),
        *("large decaying", "large decaying float32"),
    ],
)
def test_as_good_as_tensorly(tensor, ranks):
    """With its defaults, which iterate until the error falls by less than 1e-4."""
    (core, factors), _ = partial_tucker(tensor, rank=list(ranks), modes=[1, 2])
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


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_float32_of_many_channels_is_as_good_as_float64(monkeypatch, exponent):
    tensor = decaying((9, 72, 90), exponent).astype(np.float32)
    fast = tucker2(tensor, (36, 45))
    assert {part.dtype for part in fast} == {np.dtype(np.float32)}
    for u in fast[1:]:
        np.testing.assert_allclose(u.T @ u, np.eye(u.shape[1]), atol=1e-5)
    monkeypatch.setattr(tucker, "_EXACT_TO", 90)
    exact = tucker2(tensor, (36, 45))
    assert {part.dtype for part in exact} == {np.dtype(np.float64)}
    error = relative_error(tensor, exact)
    assert relative_error(tensor, fast) == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_small_losses_are_found_in_float64(monkeypatch, exponent):
    """Gram matrices in float32 know nothing below 3e-4 of the norm."""
    tensor = decaying((4, 72, 66), exponent)
    error = relative_error(tensor, tucker2(tensor, (36, 33)))
    monkeypatch.setattr(tucker, "_FLOAT32_LOSS", 0.0)
    rough = relative_error(tensor, tucker2(tensor, (36, 33)))
    tails = [
        values[rank:]
        for values, rank in zip(multi_mode_spectra(tensor), (36, 33), strict=True)
    ]
    bound = np.linalg.norm(np.concatenate(tails)) / np.linalg.norm(tensor)
    assert error <= bound * (1 + 1e-6)
    assert error <= rough * (1 + 1e-3)
    # At 2.0, just below that limit, what float32 loses depends on the processor's BLAS.
    if exponent == 3.0:
        assert bound < 0.3 * rough


@pytest.mark.parametrize("ranks", [(70, 80), (20, 25), (70, 12)])
def test_sweeps_of_many_channels_never_lose(ranks):
    for tensor in (normal((9, 72, 90)), decaying((3, 72, 90), 0.7)):
        errors = [
            relative_error(tensor, tucker2(tensor, ranks, sweeps=sweeps))
            for sweeps in range(4)
        ]
        assert all(b <= a + 1e-6 for a, b in zip(errors, errors[1:], strict=False))


def kept(gram, basis):
    return np.einsum("ij,ij->", basis, blas.gram_product(gram, basis))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 79),
    st.sampled_from(["flat", "steep", "step", "half null", "equal"]),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_filter_keeps_the_energy_and_the_orthogonality(rank, kind, noise, seed):
    """From any basis: random, of eigenvectors, or between."""
    size = 80
    ramp = np.linspace(0.0, 1.0, size)
    values = {
        "flat": 2.0 - ramp,
        "steep": 10.0 ** (-5.0 * ramp),
        "step": np.where(ramp < 0.3, 100.0, 1.0 - 0.5 * ramp),
        "half null": np.where(ramp < 0.7, 1.0, 0.0),
        "equal": np.ones(size),
    }[kind]
    vectors = np.linalg.qr(normal((size, size), seed))[0]
    gram = np.asfortranarray(np.tril((vectors * values) @ vectors.T))
    start = vectors[:, :rank] + noise * normal((size, rank), seed + 1)
    basis = np.ascontiguousarray(np.linalg.qr(start)[0])
    before = kept(gram, basis)
    better = tucker._improved(gram.copy("F"), basis)
    np.testing.assert_allclose(better.T @ better, np.eye(rank), atol=1e-10)
    assert kept(gram, better) >= before * (1.0 - 1e-12)


def test_filter_is_nearly_an_eigendecomposition_from_close_by():
    tensor = normal((9, 80, 80))
    rows = np.moveaxis(tensor, 1, 0).reshape(80, -1)
    gram = blas.row_gram(rows)
    best = blas.leading_eigenvectors(gram.copy("F"), 40)
    basis = np.ascontiguousarray(np.linalg.qr(best + 0.02 * normal((80, 40), 1))[0])
    short = kept(gram, best) - kept(gram, basis)
    left = kept(gram, best) - kept(gram, tucker._improved(gram.copy("F"), basis))
    assert 0.0 <= left < 0.2 * short


def test_the_callers_tensor_is_left_alone():
    for tensor in (normal((9, 6, 4)), np.ones((1, 80, 3)), normal((9, 3, 70))):
        before = tensor.copy()
        tucker2(tensor, (2, 2))
        multi_mode_spectra(tensor)
        np.testing.assert_array_equal(tensor, before)


def test_same_result_every_time():
    tensor = normal((9, 70, 80)).astype(np.float32)
    for one, other in zip(
        tucker2(tensor, (30, 40)), tucker2(tensor, (30, 40)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


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

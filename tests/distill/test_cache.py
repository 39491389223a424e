"""Cached logits: what the teacher would say, or a refusal."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.distill import (
    CacheError,
    Distiller,
    ViewSpec,
    cache_bytes,
    cache_logits,
    numbered,
    with_cached_logits,
)

EXACT = ["fix/rs", "fix/cc", "ind/ic", "same/rc", "funmatch"]


@pytest.fixture(scope="module")
def some(digits):
    return tuple(part[:48] for part in digits["train"])


def distiller_of(net, name="funmatch", *, seed=3, teacher=5, **options):
    spec = ViewSpec.named(name, flip=True)
    return Distiller(net(1), net(teacher), views=spec, seed=seed, **options)


def train(distiller, data, steps=9):
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    distiller.optimizer.build(distiller.student.trainable_variables)
    history = distiller.fit(data, epochs=1, steps_per_epoch=steps, verbose=0)
    return [np.array(w) for w in distiller.student.weights], history.history["loss"]


@pytest.mark.parametrize("name", EXACT)
def test_training_from_the_cache_is_training_with_the_teacher(
    net, some, tmp_path, name
):
    data = numbered(*some, batch_size=16, seed=2)
    cache_logits(
        distiller_of(net, name), data, tmp_path, samples=48, epochs=3, dtype="float32"
    )
    plain, losses = train(distiller_of(net, name), data)
    cached = distiller_of(net, name)
    attached = with_cached_logits(data, cached, tmp_path)
    found, cached_losses = train(cached, attached)
    np.testing.assert_allclose(losses, cached_losses, rtol=1e-4)
    for a, b in zip(plain, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    meta = json.loads((tmp_path / "cache.json").read_text())
    assert meta["epochs"] == (1 if name.startswith("fix") else 3)


def test_the_teacher_does_not_run(net, some, tmp_path):
    data = numbered(*some, batch_size=16)
    distiller = distiller_of(net)
    cache_logits(distiller, data, tmp_path, samples=48)
    attached = with_cached_logits(data, distiller, tmp_path, checked=0)
    for weight in distiller.teacher.weights:
        weight.assign(weight * float("nan"))
    _, losses = train(distiller, attached, steps=3)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("name", ["funmatch", "fix/rs"])
def test_replayed_data_end_the_writing(net, some, tmp_path, name, epochs):
    distiller = distiller_of(net, name)
    data = numbered(*some, batch_size=16, replay=epochs)
    counts = []
    cache_logits(
        distiller,
        data,
        tmp_path,
        samples=48,
        epochs=epochs,
        progress=lambda done, total: counts.append((done, total)),
    )
    batches = 3 if name == "fix/rs" else 3 * epochs
    assert counts[-1] == (batches, batches)


def test_replays_begin_anew(net, some, tmp_path):
    distiller = distiller_of(net)
    data = numbered(*some, batch_size=16, replay=2)
    cache_logits(distiller, data, tmp_path, samples=48, epochs=2)
    attached = with_cached_logits(data, distiller, tmp_path)
    batches = [x.logits[0].numpy() for x, _ in attached.take(12)]
    np.testing.assert_array_equal(batches[:6], batches[6:])
    with pytest.raises(tf.errors.OpError, match="Epoch 2, sample"):
        list(
            with_cached_logits(
                numbered(*some, batch_size=16), distiller, tmp_path
            ).take(9)
        )


def test_half_precision_costs_little(net, some, tmp_path):
    distiller = distiller_of(net)
    data = numbered(*some, batch_size=16)
    size = cache_bytes(distiller, samples=48, epochs=2)
    cache_logits(distiller, data, tmp_path, samples=48, epochs=2)
    written = sum(f.stat().st_size for f in tmp_path.glob("*.npy"))
    assert size == 2 * 48 * (10 * 2 + 8)
    assert written == pytest.approx(size, abs=300)
    attached = with_cached_logits(data, distiller, tmp_path)
    for (x, _), (plain, _) in zip(attached.take(6), data.take(6), strict=True):
        from tfcompress.distill import kl_divergence

        exact = distiller.teacher_logits(plain)[0]
        assert float(tf.reduce_max(kl_divergence(exact, x.logits[0]))) < 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 4}, "its seed is 3, now 4"),
        ({"teacher": 6}, "its teachers is"),
        ({"name": "same/ic"}, "its views is"),
    ],
)
def test_what_does_not_fit_is_refused(net, some, tmp_path, change, reason):
    data = numbered(*some, batch_size=16)
    cache_logits(distiller_of(net), data, tmp_path, samples=48)
    with pytest.raises(CacheError, match=reason):
        with_cached_logits(data, distiller_of(net, **change), tmp_path)
    with pytest.raises(CacheError, match="another teacher, other views or data"):
        cache_logits(distiller_of(net, **change), data, tmp_path, samples=48)


def test_other_data_are_refused(net, some, tmp_path):
    distiller = distiller_of(net)
    cache_logits(
        distiller, numbered(*some, batch_size=16), tmp_path, samples=48, epochs=2
    )
    images, labels = some
    others = numbered(1.0 - images, labels, batch_size=16, replay=2)
    with pytest.raises(CacheError, match="does not hold what the teacher says now"):
        with_cached_logits(others, distiller, tmp_path)
    # Another order mixes other pairs.
    for changed in ({"seed": 9}, {"batch_size": 12}):
        options = {"batch_size": 16, "replay": 2} | changed
        with pytest.raises(tf.errors.OpError, match="mixed with others"):
            with_cached_logits(numbered(*some, **options), distiller, tmp_path)


def test_a_stopped_run_goes_on(net, some, tmp_path):
    distiller = distiller_of(net)
    data = numbered(*some, batch_size=16)
    cache_logits(distiller, data, tmp_path / "whole", samples=48, epochs=3)

    class Stopped(Exception):
        pass

    def stop(done, total):
        assert total == 9
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        cache_logits(
            distiller, data, tmp_path / "part", samples=48, epochs=3, progress=stop
        )
    with pytest.raises(CacheError, match="not complete"):
        with_cached_logits(data, distiller, tmp_path / "part")
    seen = []
    cache_logits(
        distiller,
        data,
        tmp_path / "part",
        samples=48,
        epochs=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    # One epoch was whole: two are left.
    assert seen[-1] == (6, 6)
    for name in ("logits_0.npy", "context.npy"):
        a, b = (np.load(tmp_path / run / name) for run in ("whole", "part"))
        np.testing.assert_array_equal(a, b)


def test_bad_caches(net, some, tmp_path):
    distiller = distiller_of(net)
    data = numbered(*some, batch_size=16)
    with pytest.raises(CacheError, match="There is no logit cache"):
        with_cached_logits(data, distiller, tmp_path)
    cache_logits(distiller, data, tmp_path, samples=48)
    (tmp_path / "logits_0.npy").write_bytes(b"nothing")
    with pytest.raises(CacheError, match="is broken"):
        with_cached_logits(data, distiller, tmp_path)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(CacheError, match="is broken"):
        with_cached_logits(data, distiller, tmp_path)
    plain = tf.data.Dataset.from_tensor_slices(some).batch(16)
    with pytest.raises(CacheError, match=r"by numbered\(...\)"):
        cache_logits(distiller, plain, tmp_path / "x", samples=48)
    with pytest.raises(CacheError, match="more than were said"):
        cache_logits(distiller, data, tmp_path / "w", samples=40)
    with pytest.raises(CacheError, match="GB left"):
        cache_logits(distiller, data, tmp_path / "y", samples=48, epochs=10**12)
    with pytest.raises(CacheError, match="dtype must be"):
        cache_logits(distiller, data, tmp_path / "z", samples=48, dtype="int8")
    function = Distiller(net(1), net(2), views=lambda x, key: x)
    with pytest.raises(ValueError, match="no description"):
        cache_logits(function, data, tmp_path / "f", samples=48)
    several = Distiller(net(1), [net(2), net(3)], ensemble="kl_sum")
    with pytest.raises(CacheError, match="only 'logit_mean'"):
        cache_logits(several, data, tmp_path / "e", samples=48)


def test_several_outputs_and_ensembles(net, some, tmp_path):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)

    def heads(seed):
        make = keras.initializers.GlorotUniform
        return keras.Model(
            inputs,
            [
                keras.layers.Dense(4, kernel_initializer=make(seed=seed))(flat),
                keras.layers.Dense(
                    2, "sigmoid", kernel_initializer=make(seed=seed + 1)
                )(flat),
            ],
        )

    distiller = Distiller(heads(1), [heads(2), heads(7)], seed=1)
    data = numbered(some[0], batch_size=16)
    cache_logits(distiller, data, tmp_path, samples=48)
    attached = with_cached_logits(data, distiller, tmp_path)
    ((batch,),) = list(attached.take(1))
    assert [x.shape for x in batch.logits] == [(16, 4), (16, 2, 2)]
    expected = distiller.teacher_logits(batch)
    for a, b in zip(batch.logits, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-3)

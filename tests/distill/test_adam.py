"""Adam by TensorFlow's kernel takes the steps of Keras' Adam."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.distill import SOAP, Adam, Distiller
from tfcompress.errors import OptionError

SHAPES = ((3, 3, 2, 4), (4,), (5, 2), ())


def variables(dtype="float32"):
    random = np.random.default_rng(0)
    return [
        keras.Variable(random.normal(size=shape), dtype=dtype, name=f"v{i}")
        for i, shape in enumerate(SHAPES)
    ]


def gradients(step):
    random = np.random.default_rng(step + 1)
    return [random.normal(size=shape).astype("float32") for shape in SHAPES]


def schedule():
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=20, warmup_target=0.05, warmup_steps=3
    )


def train(optimizer, found, steps, *, jit_compile=False):
    optimizer.exclude_from_weight_decay(var_names=["v1"])
    optimizer.build(found)

    @tf.function(jit_compile=jit_compile)
    def step(grads):
        optimizer.apply(grads, found)

    for i in range(steps):
        step([tf.constant(g) for g in gradients(i)])
    return [np.array(v) for v in found]


@settings(deadline=None, max_examples=8)
@given(
    decay=st.sampled_from([None, 0.0, 0.3]),
    clip=st.sampled_from([{}, {"global_clipnorm": 1.0}, {"clipnorm": 0.5}]),
    beta_1=st.sampled_from([0.0, 0.9]),
    steps=st.integers(1, 12),
    more=st.sampled_from([{}, {"use_ema": True}, {"gradient_accumulation_steps": 2}]),
)
def test_the_steps_are_those_of_keras(decay, clip, beta_1, steps, more):
    options = {"weight_decay": decay, "beta_1": beta_1, **clip, **more}
    ours, theirs = (
        Adam(schedule(), **options),
        keras.optimizers.Adam(schedule(), **options),
    )
    found = train(ours, variables(), steps)
    for new, old in zip(found, train(theirs, variables(), steps), strict=True):
        np.testing.assert_allclose(new, old, rtol=2e-6, atol=2e-6)
    for new, old in zip(ours.variables, theirs.variables, strict=True):
        assert new.path.split("/")[1:] == old.path.split("/")[1:]
        # The kernel has 1 - beta_2 in float32.
        np.testing.assert_allclose(new, old, rtol=2e-5, atol=1e-9)


def test_compiled_by_xla():
    plain = train(Adam(schedule(), weight_decay=0.1), variables(), 4)
    found = train(Adam(schedule(), weight_decay=0.1), variables(), 4, jit_compile=True)
    for new, old in zip(found, plain, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Adam, SOAP])
def test_the_schedule_is_asked_for_a_step_and_not_for_each_variable(kind):
    class Counted(keras.optimizers.schedules.LearningRateSchedule):
        asked = 0

        def __call__(self, step):
            Counted.asked += 1
            return 0.01

    optimizer = kind(Counted(), weight_decay=0.1)
    optimizer.build(variables())
    Counted.asked = 0
    optimizer.apply([tf.constant(g) for g in gradients(0)])
    # Once for the decay, once for the step.
    assert Counted.asked == 2


def test_rows_of_an_embedding():
    """Their gradient comes as slices; a row that was looked up twice counts twice."""
    found = []
    for kind, sliced in ((Adam, True), (keras.optimizers.Adam, False)):
        table = keras.Variable(np.linspace(-1.0, 1.0, 12).reshape(6, 2))
        optimizer = kind(0.1)
        optimizer.build([table])
        for rows in ([0, 1, 1], [4, 5, 5]):
            values = tf.constant([[1.0, -2.0], [0.5, 1.0], [0.25, 3.0]])
            gradient = tf.IndexedSlices(values, tf.constant(rows), table.shape)
            optimizer.apply([gradient if sliced else tf.convert_to_tensor(gradient)])
        found.append(np.array(table))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert np.abs(found[0] - np.linspace(-1.0, 1.0, 12).reshape(6, 2)).max() > 0.1


def test_mixed_precision_scales_the_loss():
    """Kernels stay float32; a step with infinite gradients is left out."""
    inner = Adam(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    weight = keras.Variable(np.ones(3, "float32"))
    optimizer.build([weight])
    optimizer.apply([tf.constant([np.inf, 0.0, 0.0])])
    np.testing.assert_array_equal(weight, np.ones(3))
    optimizer.apply([tf.constant([8.0, 8.0, -8.0])])
    np.testing.assert_allclose(weight, [0.9, 0.9, 1.1], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_other_types(dtype):
    found = train(Adam(0.01, weight_decay=0.1), variables(dtype), 3)
    full = train(Adam(0.01, weight_decay=0.1), variables(), 3)
    for new, old in zip(found, full, strict=True):
        np.testing.assert_allclose(new.astype("float32"), old, rtol=0.03, atol=0.01)


def test_saved_with_a_model_it_goes_on_where_it_was(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(Adam(schedule(), weight_decay=0.1), "mse", jit_compile=False)
    x, y = np.ones((4, 4), "float32"), np.zeros((4, 2), "float32")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, Adam)
    for each in (model, loaded):
        each.train_on_batch(x, y)
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_amsgrad_is_refused():
    with pytest.raises(OptionError, match=r"keras\.optimizers\.Adam"):
        Adam(amsgrad=True)


def test_it_is_what_the_distiller_calls_adam():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    distiller = Distiller(model, keras.models.clone_model(model), views=lambda x, _: x)
    distiller.compile("adam")
    assert isinstance(distiller.optimizer, Adam)
    other = keras.optimizers.SGD(0.1)
    distiller.compile(other)
    assert distiller.optimizer is other

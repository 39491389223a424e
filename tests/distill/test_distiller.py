"""The Distiller: what it trains, what it leaves alone, and whether it works."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tfcompress.distill import (
    DistillationError,
    Distiller,
    ViewSpec,
    evaluate,
    fit,
    make_views,
)
from tfcompress.errors import TfcompressError

PLAIN = ViewSpec(mode="consistent", crop="none")
MILD = ViewSpec(mode="consistent", crop="mild")


def state_of(model):
    return [np.array(v) for v in model.variables]


def assert_same(before, after):
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def frozen(model, teacher, *, rate=0.0, **options):
    """A distiller whose steps change no weight unless a rate is given."""
    distiller = Distiller(model, teacher, **options)
    distiller.compile(keras.optimizers.SGD(rate), run_eagerly=True)
    return distiller


def reference_kl(teacher, student, temperature=1.0):
    t, s = (
        scipy.special.log_softmax(np.asarray(x, np.float64) / temperature, axis=-1)
        for x in (teacher, student)
    )
    return temperature**2 * np.sum(np.exp(t) * (t - s), axis=-1)


@pytest.fixture(scope="module")
def batch(digits):
    return tuple(part[:16] for part in digits["train"])


@pytest.fixture(scope="module")
def distilled(net, teacher, digits):
    """A student after one short distillation, and what was there before."""
    student = net(1, width=12)
    teacher.layers[0].trainable = False
    teacher_before = state_of(teacher)
    flags = [layer.trainable for layer in teacher.layers]
    validation = tf.data.Dataset.from_tensor_slices(digits["validation"]).batch(64)
    start = evaluate(student, validation, teacher=teacher)
    distiller = Distiller(student, teacher, views=MILD, seed=3)
    fit(
        distiller,
        tf.data.Dataset.from_tensor_slices(digits["train"]).batch(64),
        None,
        epochs=12,
        steps_per_epoch=18,
        learning_rate=2e-2,
        jit_compile=False,
    )
    end = evaluate(student, validation, teacher=teacher)
    yield {
        "distiller": distiller,
        "figures": (start, end),
        "teacher": (teacher_before, state_of(teacher)),
        "flags": (flags, [layer.trainable for layer in teacher.layers]),
    }
    teacher.layers[0].trainable = True


def test_distillation_works_on_digits(distilled):
    start, end = distilled["figures"]
    assert end["kl"] < 0.3 * start["kl"]
    assert end["agreement"] > 0.8
    assert end["accuracy"] > 0.8


def test_the_teacher_stays_as_it_was(distilled):
    # Weights, and the batch-norm statistics among them.
    assert_same(*distilled["teacher"])
    before, after = distilled["flags"]
    assert before == after == [False, True, True, True, True]
    assert distilled["distiller"].teacher.trainable


def test_the_teacher_is_no_part_of_the_distiller(net, teacher):
    student = net(1)
    distiller = frozen(student, teacher)
    assert len(distiller.weights) == len(student.weights)
    assert len(distiller.trainable_weights) == len(student.trainable_weights)
    assert distiller.layers == [student]
    assert distiller.teacher is teacher


def test_only_the_student_is_saved(distilled, batch, tmp_path):
    distiller = distilled["distiller"]
    distiller.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert type(loaded) is keras.Sequential
    assert loaded.count_params() == distiller.student.count_params()
    np.testing.assert_array_equal(
        loaded(batch[0], training=False),
        distiller.student(batch[0], training=False),
    )


def test_calling_a_distiller_calls_the_student(net, teacher, batch):
    student = net(1)
    distiller = frozen(student, teacher)
    for training in (False, True):
        np.testing.assert_array_equal(
            distiller(batch[0], training=training), student(batch[0], training=training)
        )


def test_evaluate_leaves_the_student_alone(net, teacher, batch):
    student = net(1)
    distiller = frozen(student, teacher)
    before = state_of(student)
    figures = distiller.evaluate(*batch, verbose=0, return_dict=True)
    assert_same(before, state_of(student))
    expected = evaluate(student, [batch], teacher=teacher)
    for name in ("accuracy", "agreement", "kl"):
        assert figures[name] == pytest.approx(expected[name], rel=1e-5)
    assert figures["teacher_accuracy"] == pytest.approx(
        evaluate(teacher, [batch])["accuracy"]
    )
    # Training does move the statistics: the comparison above means something.
    distiller.train_on_batch(*batch)
    moved = [v for v in student.variables if v.name == "moving_mean"]
    assert all(np.abs(np.array(v)).max() > 0 for v in moved)


def test_the_step_is_kl_on_the_view(net, teacher, batch):
    student = net(1)
    views = make_views(tf.constant(batch[0]), tf.constant([9, 0]), ViewSpec())
    expected = reference_kl(
        teacher(views.teacher, training=False),
        net(1)(views.student, training=True),
        3.0,
    )
    distiller = frozen(student, teacher, temperature=3.0, seed=9)
    figures = distiller.train_on_batch(*batch, return_dict=True)
    assert figures["kl"] == pytest.approx(expected.mean(), rel=1e-4)
    assert figures["loss"] == pytest.approx(expected.mean(), rel=1e-4)


def test_each_step_has_another_view_and_a_resumed_one_the_same(net, teacher, batch):
    def loss_at(step):
        distiller = frozen(net(1), teacher, seed=2)
        distiller.optimizer.build(distiller.student.trainable_variables)
        distiller.optimizer.iterations.assign(step)
        return distiller.train_on_batch(*batch, return_dict=True)["loss"]

    losses = [loss_at(step) for step in (0, 1, 2)]
    assert len(set(losses)) == 3
    # Not counted from the start of the process, but by the optimizer.
    assert loss_at(1) == losses[1]


def test_regularizers_of_the_student_count(net, teacher, batch):
    plain = frozen(net(1), teacher, views=PLAIN).train_on_batch(
        *batch, return_dict=True
    )
    student = net(1, kernel_regularizer=keras.regularizers.L2(0.1))
    kernels = [w for w in student.trainable_weights if w.name == "kernel"]
    extra = 0.1 * sum(float(np.sum(np.square(k))) for k in kernels)
    distiller = frozen(student, teacher, views=PLAIN)
    figures = distiller.train_on_batch(*batch, return_dict=True)
    assert figures["kl"] == pytest.approx(plain["kl"], rel=1e-5)
    assert figures["loss"] == pytest.approx(plain["loss"] + extra, rel=1e-5)
    assert extra > 0.5


def test_label_weight_adds_the_mixed_cross_entropy(net, teacher, batch):
    images, labels = batch
    views = make_views(tf.constant(images), tf.constant([4, 0]), ViewSpec())
    log_q = scipy.special.log_softmax(
        np.asarray(net(1)(views.student, training=True), np.float64), -1
    )
    mix = float(views.mix)
    own = np.eye(10)[labels]
    target = mix * own + (1 - mix) * np.roll(own, 1, axis=0)
    entropy = -np.sum(target * log_q, -1).mean()
    distiller = frozen(net(1), teacher, label_weight=0.25, seed=4)
    figures = distiller.train_on_batch(images, labels, return_dict=True)
    assert figures["loss"] == pytest.approx(figures["kl"] + 0.25 * entropy, rel=1e-4)
    # Labels as a column are the same labels.
    column = frozen(net(1), teacher, label_weight=0.25, seed=4)
    again = column.train_on_batch(images, labels[:, None], return_dict=True)
    assert again["loss"] == pytest.approx(figures["loss"], rel=1e-6)


def test_labels_are_only_needed_where_they_count(net, teacher, batch):
    images = batch[0]
    distiller = frozen(net(1), teacher, views=MILD)
    history = distiller.fit(images, batch_size=8, verbose=0).history
    assert set(history) == {"loss", "kl", "agreement"}
    shown = distiller.evaluate(images, verbose=0, return_dict=True)
    assert set(shown) == {"loss", "kl", "agreement", "agreement_top5"}
    with pytest.raises(DistillationError, match="label_weight=0.5 needs labels"):
        frozen(net(1), teacher, label_weight=0.5).train_on_batch(images)


@pytest.mark.parametrize("column", [False, True])
def test_sample_weights_weigh_the_loss(net, teacher, batch, column):
    images, labels = batch
    weights = np.linspace(0.0, 2.0, 16).astype("float32")
    expected = reference_kl(
        teacher(images, training=False), net(1)(images, training=True)
    )
    distiller = frozen(net(1), teacher, views=PLAIN)
    given = weights[:, None] if column else weights
    figures = distiller.train_on_batch(images, labels, given, return_dict=True)
    assert figures["loss"] == pytest.approx((expected * weights).mean(), rel=1e-4)
    assert figures["loss"] != pytest.approx(expected.mean(), rel=1e-2)


def test_samples_of_weight_zero_teach_nothing(net, teacher, batch):
    student = net(1)
    before = [np.array(v) for v in student.trainable_variables]
    distiller = frozen(student, teacher, rate=0.1)
    distiller.train_on_batch(*batch, np.zeros(16, "float32"))
    assert_same(before, [np.array(v) for v in student.trainable_variables])
    distiller.train_on_batch(*batch, np.ones(16, "float32"))
    assert np.abs(before[0] - np.array(student.trainable_variables[0])).max() > 0


@pytest.mark.parametrize(
    "ends", [(None, "softmax"), ("softmax", None), ("softmax",) * 2]
)
def test_models_that_end_in_probabilities(net, batch, ends):
    student, master = (net(s, activation=a) for s, a in zip((1, 2), ends, strict=True))
    plain = frozen(net(1), net(2), views=PLAIN, temperature=2.0)
    expected = plain.train_on_batch(*batch, return_dict=True)
    distiller = frozen(student, master, views=PLAIN, temperature=2.0)
    figures = distiller.train_on_batch(*batch, return_dict=True)
    assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert figures["agreement"] == expected["agreement"]


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(net, batch):
    # Without batch normalization both modes give the same outputs.
    def flat():
        return keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )

    master, student = flat(), flat()
    student.set_weights(master.get_weights())
    before = state_of(student)
    figures = frozen(student, master, rate=1.0).train_on_batch(*batch, return_dict=True)
    assert figures["kl"] == pytest.approx(0.0, abs=1e-6)
    assert figures["agreement"] == 1.0
    for old, new in zip(before, state_of(student), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def train_shortly(net, teacher, data, **options):
    student = net(1)
    distiller = Distiller(student, teacher, seed=options.pop("seed", 5))
    batches = tf.data.Dataset.from_tensor_slices(data).batch(32)
    fit(
        distiller,
        batches,
        None,
        epochs=2,
        steps_per_epoch=3,
        warmup_steps=0,
        **{"jit_compile": False, **options},
    )
    return state_of(student)


@pytest.fixture(scope="module")
def some(digits):
    return tuple(part[:96] for part in digits["train"])


@pytest.fixture(scope="module")
def shortly(net, teacher, some):
    """A student after a very short distillation."""
    return train_shortly(net, teacher, some)


def test_one_seed_gives_identical_weights(shortly, net, teacher, some):
    first = shortly
    assert_same(first, train_shortly(net, teacher, some))
    other = train_shortly(net, teacher, some, seed=6)
    assert max(np.abs(a - b).max() for a, b in zip(first, other, strict=True)) > 1e-4


def test_xla_trains_as_the_rest_does(shortly, net, teacher, some):
    # Adam divides by small second moments: rounding grows to steps of 3e-3 where the
    # gradient is nothing but rounding, as of a bias before batch normalization.
    compiled = train_shortly(net, teacher, some, jit_compile=True)
    for a, b in zip(shortly, compiled, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-3)


def test_arrays_and_datasets_train_alike(net, teacher, some):
    results = []
    for data in (some, tf.data.Dataset.from_tensor_slices(some).batch(32)):
        student = net(1)
        distiller = Distiller(student, teacher)
        distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        distiller.optimizer.build(distiller.student.trainable_variables)
        arrays = isinstance(data, tuple)
        options = {"batch_size": 32, "shuffle": False} if arrays else {}
        distiller.fit(*(data if arrays else (data,)), epochs=2, verbose=0, **options)
        results.append(state_of(student))
    # Open and known batch sizes take other kernels, and round otherwise.
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_mixed_precision_student(net, teacher, some):
    student = net(1, dtype="mixed_bfloat16")
    distiller = Distiller(student, teacher, views=PLAIN)
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    distiller.optimizer.build(distiller.student.trainable_variables)
    history = distiller.fit(*some, batch_size=32, epochs=6, verbose=0).history
    assert student(some[0][:2]).dtype == tf.bfloat16
    assert all(v.dtype == "float32" for v in student.variables)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert np.isfinite(history["loss"]).all()


def test_different_classes_are_an_error(net, teacher):
    with pytest.raises(
        DistillationError,
        match="the teacher 'teacher' gives 10, the student 'small' 7",
    ):
        Distiller(net(0, classes=7, name="small"), teacher)


def test_models_must_be_built(net, teacher):
    fresh = keras.Sequential([keras.layers.Dense(10)], name="fresh")
    with pytest.raises(DistillationError, match="student 'fresh' is not built"):
        Distiller(fresh, teacher)
    with pytest.raises(DistillationError, match="teacher 'fresh' is not built"):
        Distiller(net(0), fresh)


def test_one_output_of_classes_is_needed(net, teacher):
    maps = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(10, 3)], name="maps"
    )
    with pytest.raises(DistillationError, match="student.*shapes"):
        Distiller(maps, teacher)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(net, teacher, temperature):
    with pytest.raises(DistillationError, match="temperature must be positive. Rec"):
        Distiller(net(0), teacher, temperature=temperature)


def test_label_weight_must_not_be_negative(net, teacher):
    with pytest.raises(TfcompressError, match="label_weight must not be negative"):
        Distiller(net(0), teacher, label_weight=-0.1)

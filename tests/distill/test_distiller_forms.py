"""Distillers of many forms: outputs, resolutions, ensembles, features, data."""

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from keras import layers

from tfcompress.distill import (
    DistillationError,
    Distiller,
    FeatureMatch,
    ViewSpec,
    make_views,
    numbered,
)
from tfcompress.distill.crops import crop_and_resize, full_boxes
from tfcompress.surgery import in_dtype

PLAIN = ViewSpec(mode="consistent", crop="none")


def log_softmax(x):
    return scipy.special.log_softmax(np.asarray(x, np.float64), axis=-1)


def kl(t, s):
    t, s = log_softmax(t), log_softmax(s)
    return np.sum(np.exp(t) * (t - s), axis=-1)


def one_step(distiller, *data):
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return distiller.train_on_batch(*data, return_dict=True)


@pytest.fixture(scope="module")
def batch(digits):
    return tuple(part[:16] for part in digits["train"])


def sized_net(size, seed, *, channels=4, name=None):
    init = [keras.initializers.GlorotUniform(seed=seed + i) for i in range(2)]
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(channels, 3, kernel_initializer=init[0], name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, kernel_initializer=init[1]),
        ],
        name=name,
    )


def two_heads(seed, *, width=6, sigmoid=False):
    def init(i):
        return keras.initializers.GlorotUniform(seed=seed + i)

    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, activation="relu", kernel_initializer=init(0))(inputs)
    x = layers.Flatten()(x)
    last = "sigmoid" if sigmoid else None
    outputs = {
        "digit": layers.Dense(10, kernel_initializer=init(1), name="d")(x),
        "even": layers.Dense(1, last, kernel_initializer=init(2), name="e")(x),
    }
    return keras.Model(inputs, outputs)


def test_teacher_and_student_at_their_own_resolution_and_scaling(batch):
    teacher, student = sized_net(8, 0), sized_net(6, 5)
    distiller = Distiller(
        student,
        teacher,
        teacher_preprocess=lambda x: 2.0 * x - 1.0,
        student_preprocess=lambda x: x / 4.0,
        seed=3,
    )
    figures = one_step(distiller, batch[0])
    views = make_views(
        batch[0],
        tf.constant([3, 0]),
        ViewSpec(),
        teacher_size=(8, 8),
        student_size=(6, 6),
    )
    expected = kl(teacher(2.0 * views.teacher - 1.0), student(views.student / 4.0))
    assert figures["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    # In validation both see the whole image, each at its size.
    shown = distiller.evaluate(batch[0], batch_size=16, verbose=0, return_dict=True)
    small = crop_and_resize(tf.constant(batch[0]), full_boxes(16), (6, 6))
    expected = kl(teacher(2.0 * batch[0] - 1.0), student(small / 4.0))
    assert shown["kl"] == pytest.approx(expected.mean(), rel=1e-4)
    assert distiller(batch[0]).shape == (16, 10)


@pytest.mark.parametrize("ensemble", ["logit_mean", "prob_mean", "kl_sum"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_several_teachers(net, batch, ensemble, temperature):
    teachers = [net(1), sized_net(6, 9), net(7, activation="softmax")]
    student = net(3)
    distiller = Distiller(
        student, teachers, views=PLAIN, ensemble=ensemble, temperature=temperature
    )
    figures = one_step(distiller, batch[0])
    small = crop_and_resize(tf.constant(batch[0]), full_boxes(16), (6, 6))
    logits = [
        np.asarray(teachers[0](batch[0])),
        np.asarray(teachers[1](small)),
        np.log(np.asarray(teachers[2](batch[0]))),
    ]
    found = np.asarray(student(batch[0], training=True)) / temperature
    tempered = [log_softmax(x / temperature) for x in logits]
    if ensemble == "logit_mean":
        expected = kl(np.mean(logits, axis=0) / temperature, found)
    elif ensemble == "prob_mean":
        expected = kl(np.log(np.mean(np.exp(tempered), axis=0)), found)
    else:
        expected = sum(kl(t, found) for t in tempered)
    scale = temperature**2
    assert figures["loss"] == pytest.approx(scale * expected.mean(), rel=1e-4)
    assert distiller.teachers == tuple(teachers)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_several_outputs_of_different_kinds(batch, sigmoid):
    images, digits = batch
    teacher, student = two_heads(0, sigmoid=sigmoid), two_heads(5, sigmoid=sigmoid)
    distiller = Distiller(student, teacher, views=PLAIN)
    figures = one_step(distiller, images)
    there, here = (m(images, training=True) for m in (teacher, student))
    expected = kl(there["digit"], here["digit"]).mean()
    assert figures["digit_kl"] == pytest.approx(expected, rel=1e-4)
    t, s = (np.asarray(x["even"], np.float64) for x in (there, here))
    if sigmoid:
        other = t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))
        assert figures["even_kl"] == pytest.approx(other.mean(), rel=1e-4)
    else:
        other = (t - s) ** 2
        assert figures["even_error"] == pytest.approx(other.mean(), rel=1e-4)
    assert figures["loss"] == pytest.approx(expected + other.mean(), rel=1e-4)
    labels = {"digit": digits, "even": (digits % 2 == 0).astype("float32")}
    shown = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    right = np.argmax(here["digit"], -1) == digits
    assert shown["digit_accuracy"] == pytest.approx(right.mean())
    if sigmoid:
        right = (s[:, 0] > 0.5) == (digits % 2 == 0)
        assert shown["even_accuracy"] == pytest.approx(right.mean())


def test_labels_of_several_outputs(batch):
    images, digits = batch
    teacher, student = two_heads(0), two_heads(5)
    labels = {"digit": digits, "even": (digits % 2).astype("float32")}
    distiller = Distiller(student, teacher, views=PLAIN, label_weight=0.5)
    figures = one_step(distiller, images, labels)
    here = student(images, training=True)
    entropy = -log_softmax(here["digit"])[np.arange(16), digits].mean()
    error = np.mean((np.asarray(here["even"])[:, 0] - digits % 2) ** 2)
    matching = figures["digit_kl"] + figures["even_error"]
    assert figures["loss"] == pytest.approx(
        matching + 0.5 * (entropy + error), rel=1e-4
    )


def test_dense_outputs_count_by_place(batch):
    def maps(seed):
        init = keras.initializers.GlorotUniform(seed=seed)
        return keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Conv2D(3, 3, kernel_initializer=init)]
        )

    teacher, student = maps(0), maps(1)
    figures = one_step(Distiller(student, teacher, views=PLAIN), batch[0])
    expected = kl(teacher(batch[0]), student(batch[0])).mean()
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("ends", ["softmax", "sigmoid"])
def test_kinds_can_be_said(net, batch, ends):
    # A Lambda hides what the outputs are.
    def hidden(seed):
        inner = net(seed, activation=ends)
        return keras.Sequential(
            [keras.Input((8, 8, 1)), inner, layers.Activation("linear")]
        )

    kind = {"softmax": "probabilities", "sigmoid": "binary_probabilities"}[ends]
    figures = [
        one_step(Distiller(student, teacher, views=PLAIN, **options), batch[0])["loss"]
        for student, teacher, options in (
            (net(1, activation=ends), net(4, activation=ends), {}),
            (hidden(1), hidden(4), {"student_outputs": kind, "teacher_outputs": kind}),
        )
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    with pytest.raises(DistillationError, match="cannot be compared"):
        Distiller(net(1), net(4, activation="sigmoid"), student_outputs="logits")


@pytest.mark.parametrize("widths", [(6, 6), (6, 9)])
def test_features_are_matched_by_one_forward_pass(batch, widths):
    calls = []

    @keras.saving.register_keras_serializable(package="test_forms")
    class Counted(layers.ReLU):
        def call(self, inputs):
            calls.append(self.name)
            return super().call(inputs)

    def with_conv(seed, width, size):
        init = keras.initializers.GlorotUniform(seed=seed)
        inputs = keras.Input((size, size, 1))
        x = layers.Conv2D(width, 3, name="conv", kernel_initializer=init)(inputs)
        x = Counted(name=f"count{seed}")(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(10, kernel_initializer=init)(x))

    teacher, student = with_conv(1, widths[0], 8), with_conv(2, widths[1], 6)
    match = FeatureMatch(teacher="conv", student="conv", weight=0.5)
    distiller = Distiller(student, teacher, views=PLAIN, features=[match])
    calls.clear()
    figures = one_step(distiller, batch[0])
    assert sorted(calls) == ["count1", "count2"]
    assert figures["loss"] > figures["kl"]
    if widths[0] == widths[1]:
        small = crop_and_resize(tf.constant(batch[0]), full_boxes(16), (6, 6))
        there = teacher.get_layer("conv")(batch[0])
        here = student.get_layer("conv")(small)
        shrunk = crop_and_resize(there, full_boxes(16), (4, 4))
        error = np.mean((shrunk - here) ** 2) / np.var(shrunk)
        assert figures["loss"] - figures["kl"] == pytest.approx(0.5 * error, rel=1e-3)
    before = [np.array(w) for w in student.get_layer("conv").weights]
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    distiller.train_on_batch(batch[0])
    assert np.abs(before[0] - student.get_layer("conv").weights[0]).max() > 0
    # The projection is trained with the student and saved with the distiller only.
    projected = widths[0] != widths[1]
    assert len(distiller.trainable_weights) == 4 + projected


def test_a_user_s_keras_distillation_losses(net, batch):
    student, teacher = net(1), net(5)
    names = [
        next(x.name for x in m.layers if "flatten" in x.name)
        for m in (teacher, student)
    ]
    loss = keras.distillation.LogitsDistillation(
        temperature=2.0, loss=keras.losses.KLDivergence()
    )
    features = keras.distillation.FeatureDistillation(
        loss="mse", teacher_layer_name=names[0], student_layer_name=names[1]
    )
    distiller = Distiller(
        student, teacher, views=PLAIN, extra=[(loss, 0.3), (features, 0.1)]
    )
    figures = one_step(distiller, batch[0])
    logits = teacher(batch[0]), student(batch[0], training=True)
    expected = kl(*logits).mean() + 0.3 * 4 * kl(*(x / 2 for x in logits)).mean()
    assert figures["loss"] > expected
    assert figures["loss"] < expected + 1.0
    only = Distiller(student, teacher, views=PLAIN, extra=[(loss, 0.3)])
    assert one_step(only, batch[0])["loss"] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(DistillationError, match="has a method compute_loss"):
        Distiller(student, teacher, extra=[(keras.losses.KLDivergence(), 1.0)])


def test_unknown_layers_name_the_nearest(net):
    student = net(1)
    known = student.layers[3].name
    match = FeatureMatch(teacher=known, student="x" + known)
    with pytest.raises(DistillationError, match=f"No layer 'x{known}'.*'{known}'"):
        Distiller(student, net(2), features=[match])
    nested = keras.Sequential([keras.Input((8, 8, 1)), net(1, name="inner")])
    path = f"inner/{nested.layers[0].layers[0].name}"
    match = FeatureMatch(teacher=path, student=known)
    with pytest.raises(DistillationError, match="lies inside another layer"):
        Distiller(student, nested, features=[match])


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_a_teacher_in_half_precision(net, batch, dtype):
    student, teacher = net(1), net(5)
    before = [np.array(v) for v in teacher.variables]
    plain = one_step(Distiller(student, teacher, views=PLAIN), batch[0])
    half = Distiller(student, teacher, views=PLAIN, teacher_dtype=dtype)
    figures = one_step(half, batch[0])
    assert figures["loss"] == pytest.approx(plain["loss"], rel=0.05)
    assert figures["loss"] != plain["loss"]
    assert half.teacher is teacher
    assert {v.dtype for v in teacher.variables} == {"float32"}
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    copy = in_dtype(teacher, dtype)
    assert copy(batch[0]).dtype == tf.bfloat16


def test_a_compiled_teacher_beside_an_uncompiled_student(net, batch):
    student, teacher = net(1), net(5)
    plain = one_step(Distiller(student, teacher), batch[0])
    compiled = one_step(Distiller(student, teacher, teacher_jit=True), batch[0])
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def with_norms(seed, *, nested=False):
    body = [
        layers.Conv2D(6, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
    model = keras.Sequential([keras.Input((8, 8, 1)), *body])
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.2, 1.0, w.shape) for w in model.get_weights()])
    return keras.Sequential([keras.Input((8, 8, 1)), model]) if nested else model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.flatten = layers.Flatten()
        self.dense = layers.Dense(10)

    def call(self, x, training=None):
        return self.dense(self.flatten(self.norm(x, training=training)))


@pytest.mark.parametrize("kind", ["plain", "nested", "subclassed"])
def test_a_folded_teacher_gives_the_same_logits(kind, batch, digits):
    if kind == "subclassed":
        teacher = Subclassed()
        teacher(batch[0], training=True)
    else:
        teacher = with_norms(5, nested=kind == "nested")
    before = [np.array(v) for v in teacher.variables]
    (data,) = next(iter(numbered(batch[0], batch_size=16)))
    student = with_norms(1)
    exact = Distiller(student, teacher, views=PLAIN, teacher_fold=False)
    folded = Distiller(student, teacher, views=PLAIN)
    np.testing.assert_array_equal(
        exact.teacher_logits(data)[0], teacher(data.inputs, training=False)
    )
    np.testing.assert_allclose(
        folded.teacher_logits(data)[0], exact.teacher_logits(data)[0], rtol=1e-4
    )
    assert folded.teacher is teacher
    for old, new in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # As it was when the distiller was made; unfolded it is read anew.
    if kind == "plain":
        old = np.array(folded.teacher_logits(data)[0])
        teacher.layers[-1].bias.assign_add(np.ones(10))
        np.testing.assert_array_equal(folded.teacher_logits(data)[0], old)
        np.testing.assert_array_equal(
            exact.teacher_logits(data)[0], teacher(data.inputs, training=False)
        )


def test_a_subclassed_student(batch):
    student = Subclassed()
    student(batch[0])
    distiller = Distiller(student, with_norms(5))
    distiller.compile("adam", jit_compile=False)
    distiller.optimizer.build(student.trainable_variables)
    before = np.array(student.dense.kernel)
    history = distiller.fit(*batch, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.abs(before - student.dense.kernel).max() > 0
    other = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    other.add(layers.Dense(7))
    with pytest.raises(DistillationError, match="same classes"):
        Distiller(student, other)


def test_tapped_teachers_are_not_folded(batch):
    student, teacher = with_norms(1), with_norms(5)
    match = FeatureMatch(teacher="conv", student="conv")
    distiller = Distiller(student, teacher, views=PLAIN, features=[match])
    figures = one_step(distiller, batch[0])
    both = [
        keras.Model(m.inputs, m.get_layer("conv").output)(batch[0])
        for m in (student, teacher)
    ]
    error = np.mean(np.square(np.subtract(*both))) / np.var(both[1])
    assert figures["loss"] == pytest.approx(figures["kl"] + error, rel=1e-3)


def test_the_ensemble_of_crops_is_always_the_same(net, batch):
    student, teacher = net(1), net(5)
    spec = ViewSpec.named("fix/ic_ens", teacher_crops=6)
    distiller = Distiller(student, teacher, views=spec, seed=2)
    data = numbered(batch[0], batch_size=8, seed=4, epochs=2)
    targets = {}
    for (samples,) in data:
        found = distiller.teacher_logits(samples)[0].numpy()
        for number, row in zip(samples.sample.numpy(), found, strict=True):
            if number in targets:
                np.testing.assert_allclose(targets[number], row, atol=1e-5)
            targets[number] = row
    assert len(targets) == 16
    from tfcompress.distill.views import ensemble_view

    mean = np.mean(
        [
            tf.nn.softmax(
                teacher(
                    ensemble_view(
                        batch[0], 2, spec, i, samples=tf.range(16), size=(8, 8)
                    )
                )
            )
            for i in range(6)
        ],
        axis=0,
    )
    expected = np.log(mean)
    found = np.stack([targets[i] for i in range(16)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    figures = distiller
    figures.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    figures.optimizer.build(student.trainable_variables)
    losses = figures.fit(data, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.data = x, y

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(part[index * 4 : index * 4 + 4] for part in self.data)


def test_every_kind_of_data_trains(net, batch):
    results = []
    for data in (
        Sequence(*batch),
        tf.data.Dataset.from_tensor_slices(batch).batch(4, drop_remainder=True),
    ):
        student = net(1)
        distiller = Distiller(student, net(5), seed=1)
        distiller.compile(keras.optimizers.SGD(0.05), jit_compile=False)
        distiller.optimizer.build(student.trainable_variables)
        distiller.fit(data, epochs=2, verbose=0, shuffle=False)
        results.append([np.array(w) for w in student.weights])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dictionaries_of_inputs(batch):
    def net(seed):
        init = keras.initializers.GlorotUniform(seed=seed)
        image, extra = keras.Input((8, 8, 1), name="image"), keras.Input((2,), name="x")
        x = layers.Concatenate()([layers.Flatten()(image), extra])
        out = layers.Dense(10, kernel_initializer=init)(x)
        return keras.Model({"image": image, "x": extra}, out)

    inputs = {"image": batch[0], "x": batch[0][:, :2, 0, 0]}
    student = net(0)
    distiller = Distiller(student, net(1))
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    distiller.optimizer.build(student.trainable_variables)
    history = distiller.fit(inputs, batch[1], batch_size=8, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    shown = distiller.evaluate(inputs, batch[1], verbose=0, return_dict=True)
    assert shown["agreement"] <= 1.0


def test_a_view_function(net, batch):
    student, teacher = net(1), net(5)

    def view(images, key):
        return tf.roll(images, 1 + key[0] % 3 + key[1], axis=2)

    distiller = Distiller(student, teacher, views=view, seed=4)
    figures = one_step(distiller, batch[0])
    seen = np.roll(batch[0], 2, axis=2)
    expected = kl(teacher(seen), student(seen, training=True)).mean()
    assert figures["loss"] == pytest.approx(expected, rel=1e-4)


def test_numbered_data_have_their_own_views(net, batch):
    student, teacher = net(1), net(5)
    order = np.array([3, 1, 7, 5])
    losses = []
    for numbers in (np.arange(4), order):
        distiller = Distiller(
            student, teacher, views=ViewSpec(mode="consistent"), seed=6
        )
        from tfcompress.distill import Samples

        x = Samples(batch[0][numbers], tf.fill((4,), 9), tf.constant(numbers, tf.int32))
        figures = one_step(distiller, x)
        views = make_views(
            batch[0][numbers],
            tf.constant([6, 9]),
            ViewSpec(mode="consistent"),
            samples=tf.constant(numbers),
        )
        expected = kl(teacher(views.teacher), student(views.student, training=True))
        assert figures["loss"] == pytest.approx(expected.mean(), rel=1e-4)
        losses.append(figures["loss"])
    assert losses[0] != losses[1]


def test_recalibration_is_on_clean_images(net, digits):
    images = digits["train"][0][:256]
    data = tf.data.Dataset.from_tensor_slices(images).batch(64)
    student = net(1)
    distiller = Distiller(student, net(5), student_preprocess=lambda x: x - 0.5)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    distiller.optimizer.build(student.trainable_variables)
    distiller.fit(data, epochs=1, verbose=0)
    weights = [np.array(w) for w in student.trainable_weights]
    distiller.recalibrate(data)
    conv, norm = student.layers[:2]
    activations = np.asarray(conv(images - 0.5))
    np.testing.assert_allclose(norm.moving_mean, activations.mean((0, 1, 2)), atol=1e-4)
    for old, new in zip(weights, student.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_student_alone_is_exported(net, batch, tmp_path):
    student = net(1)
    distiller = Distiller(student, net(5))
    distiller.export(tmp_path / "student", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "student"))
    np.testing.assert_allclose(loaded.serve(batch[0]), student(batch[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "kll"}, "did you mean 'kl'"),
        ({"loss": {"digits": "kl"}}, "No output 'digits'"),
        ({"loss": ["kl", "kl"]}, "Give one loss for each output"),
        ({"ensemble": "mean"}, "No ensemble 'mean'"),
        ({"student_outputs": "logit"}, "did you mean 'logits'"),
        ({"teacher_dtype": "float17"}, "No dtype policy 'float17'"),
        ({"teacher_preprocess": [None, None]}, "2 for 1 teachers"),
    ],
)
def test_bad_options(net, options, reason):
    with pytest.raises(ValueError, match=reason):
        Distiller(net(1), net(2), **options)


def test_no_teacher(net):
    with pytest.raises(DistillationError, match="at least one teacher"):
        Distiller(net(1), [])
    with pytest.raises(DistillationError, match="equally many outputs"):
        Distiller(net(1), two_heads(0))

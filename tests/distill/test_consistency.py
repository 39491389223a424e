"""Views of numbered samples, at several resolutions; and the proof of consistency."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.distill import (
    PAPER_VIEWS,
    ViewError,
    Views,
    ViewSpec,
    make_views,
    verify_consistency,
)
from tfcompress.distill.crops import central_boxes, crop_and_resize, mixup, recolour
from tfcompress.distill.spec import CROPS, MIXUPS

SHAPE = (4, 16, 16, 3)


def images_of(count, size=16, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, size, size, channels)).astype("float32")


consistent = st.builds(
    ViewSpec,
    mode=st.sampled_from(["consistent", "function_matching"]),
    crop=st.sampled_from(CROPS),
    flip=st.booleans(),
    colour=st.sampled_from([0.0, 0.4]),
    mixup=st.sampled_from(MIXUPS),
)


@settings(max_examples=60, deadline=None)
@given(
    consistent,
    st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=6, unique=True),
    st.integers(0, 2**31 - 1),
    st.integers(0, 10**6),
    st.sampled_from([None, (8, 8), (16, 16), (24, 20)]),
)
def test_both_see_the_same_bit_for_bit(spec, samples, seed, epoch, size):
    images = images_of(len(samples))
    views = make_views(
        images,
        tf.constant([seed, epoch]),
        spec,
        samples=tf.constant(samples),
        teacher_size=size,
        student_size=size,
    )
    np.testing.assert_array_equal(views.teacher, views.student)
    again = make_views(
        images,
        tf.constant([seed, epoch]),
        spec,
        samples=tf.constant(samples),
        teacher_size=size,
        student_size=size,
    )
    np.testing.assert_array_equal(views.student, again.student)
    np.testing.assert_array_equal(views.mix, again.mix)


@settings(max_examples=30, deadline=None)
@given(consistent, st.integers(0, 10**6), st.permutations(range(5)))
def test_a_crop_is_the_same_in_any_batch(spec, epoch, order):
    spec = dataclasses.replace(spec, mode="consistent")
    images, key = images_of(5), tf.constant([3, epoch])
    samples = np.arange(5) + 70
    base = make_views(images, key, spec, samples=tf.constant(samples)).student
    order = np.array(order)
    moved = make_views(images[order], key, spec, samples=tf.constant(samples[order]))
    np.testing.assert_allclose(moved.student, np.asarray(base)[order], atol=1e-6)


@pytest.mark.parametrize("mixup_by", MIXUPS)
def test_shares_are_of_the_batch_or_of_the_sample(mixup_by):
    spec = ViewSpec(crop="none", mixup=mixup_by)
    images, key = images_of(4), tf.constant([3, 5])
    views = make_views(images, key, spec, samples=tf.constant([9, 2, 4, 6]))
    assert views.mix.shape == (() if mixup_by == "batch" else (4,))
    share = np.broadcast_to(views.mix, (4,))[:, None, None, None]
    expected = share * images + (1 - share) * np.roll(images, 1, axis=0)
    np.testing.assert_allclose(views.student, expected, atol=1e-6)
    if mixup_by == "sample":
        alone = make_views(images[:1], key, spec, samples=tf.constant([4]))
        np.testing.assert_array_equal(alone.mix, views.mix[2:3])


def test_mixing_by_sample_takes_one_share_each():
    images = images_of(3)
    mixed = mixup(tf.constant(images), tf.constant([1.0, 0.0, 0.5])).numpy()
    np.testing.assert_allclose(mixed[0], images[0])
    np.testing.assert_allclose(mixed[1], images[0])
    np.testing.assert_allclose(mixed[2], (images[2] + images[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["same/rc", "same/ic", "funmatch"])
@pytest.mark.parametrize(
    ("teacher", "student"), [(None, None), ((16, 16), (8, 8)), ((24, 24), (10, 10))]
)
def test_consistent_modes_of_the_paper_are_consistent(name, teacher, student):
    found = verify_consistency(
        ViewSpec.named(name, flip=True, colour=0.2),
        SHAPE,
        teacher_size=teacher,
        student_size=student,
        keys=4,
    )
    assert found.identical == (teacher is None)
    assert found.pixels < 0.3 and found.shares < 1e-3
    if teacher is None:
        assert found.pixels == found.shares == 0.0


@pytest.mark.parametrize("name", ["fix/cc", "fix/ic_ens", "ind/rc", "ind/ic"])
def test_other_modes_of_the_paper_are_not(name):
    with pytest.raises(ViewError, match=r"do not see the same: crops differ"):
        verify_consistency(ViewSpec.named(name), SHAPE, keys=2)


def test_view_functions_are_held_to_it():
    def same(images, key):
        return tf.roll(images, key[1] % 3, axis=2)

    assert verify_consistency(same, SHAPE, keys=3).identical

    def other(images, key):
        return Views(images, tf.roll(images, 1 + key[1] % 3, axis=2))

    with pytest.raises(ViewError, match="do not see the same"):
        verify_consistency(other, SHAPE, keys=3)

    def random(images, key):
        return images + tf.random.uniform(())

    with pytest.raises(ViewError, match="no pure function"):
        verify_consistency(random, SHAPE, keys=3)

    def shares(images, key):
        return Views(mixup(images, 0.3), mixup(images, 0.7), 0.3)

    with pytest.raises(ViewError, match=r"shares in the mixture by up to 0\.4"):
        verify_consistency(shares, SHAPE, keys=1)


def test_fixed_views_of_the_teacher():
    images, key = images_of(3), tf.constant([0, 1])
    central = make_views(images, key, ViewSpec.named("fix/cc"))
    boxes = central_boxes(tf.range(3))
    np.testing.assert_array_equal(
        central.teacher, crop_and_resize(tf.constant(images), boxes, (16, 16))
    )
    later = make_views(images, tf.constant([0, 2]), ViewSpec.named("fix/cc"))
    np.testing.assert_array_equal(central.teacher, later.teacher)
    assert np.abs(central.student - later.student).max() > 0.01
    resized = make_views(images, key, ViewSpec.named("fix/rs"), teacher_size=(8, 8))
    assert resized.teacher.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(resized.student, images)


def test_the_papers_modes_by_name():
    assert set(PAPER_VIEWS) == {
        *("fix/rs", "fix/cc", "fix/ic_ens", "ind/rc", "ind/ic"),
        *("same/rc", "same/ic", "funmatch"),
    }
    assert ViewSpec.named("ind/rc", flip=True) == ViewSpec(
        mode="independent", crop="random", flip=True
    )
    with pytest.raises(ViewError, match="did you mean 'same/ic'"):
        ViewSpec.named("same/icc")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"colour": 1.0}, r"colour must lie in \[0, 1\)"),
        ({"mixup": "pixel"}, "No mixup 'pixel'"),
        ({"teacher": "hole", "mode": "fixed"}, "did you mean 'whole'"),
        ({"teacher": "central"}, "belongs to mode 'fixed'"),
        ({"teacher_crops": 0}, "teacher_crops must be at least 1"),
    ],
)
def test_bad_specifications(options, reason):
    with pytest.raises(ViewError, match=reason):
        ViewSpec(**options)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 0.9), st.floats(0.0, 1.0), st.integers(0, 99), st.booleans())
def test_colour_commutes_with_mixup(strength, share, seed, grey):
    images = tf.constant(images_of(3, 6, 1 if grey else 3, seed))
    draw = np.random.default_rng(seed).uniform(size=(3, 1)).astype("float32")
    draw = tf.constant(np.repeat(draw, 3, axis=1))
    first = recolour(mixup(images, share), draw, strength)
    last = mixup(recolour(images, draw, strength), share)
    np.testing.assert_allclose(first, last, atol=1e-5)


def test_colour_against_its_definition():
    images = images_of(2)
    draw = np.array([[0.5, 1.0], [0.5, 0.25], [0.0, 0.5]], np.float32)
    found = recolour(tf.constant(images), tf.constant(draw), 0.4).numpy()
    factors = 1 + 0.4 * (2 * draw - 1)
    for i in range(2):
        grey = images[i] @ np.array([0.2989, 0.587, 0.114])
        image = grey[..., None] + factors[2, i] * (images[i] - grey[..., None])
        image = image.mean() + factors[1, i] * (image - image.mean())
        np.testing.assert_allclose(found[i], factors[0, i] * image, atol=1e-5)


def test_every_image_of_several_inputs_is_seen_alike():
    images, key = images_of(3), tf.constant([0, 4])
    inputs = {
        "image": images,
        "depth": images[..., :1],
        "length": np.ones((3, 2), "f4"),
    }
    views = make_views(inputs, key, ViewSpec(flip=True)).student
    alone = make_views(images, key, ViewSpec(flip=True)).student
    np.testing.assert_array_equal(views["image"], alone)
    np.testing.assert_allclose(views["depth"], alone[..., :1], atol=1e-6)
    np.testing.assert_allclose(views["length"], 1.0, atol=1e-6)
    tokens = {"image": images, "tokens": np.ones((3, 2), "int32")}
    plain = make_views(tokens, key, ViewSpec(mode="consistent")).student
    np.testing.assert_array_equal(plain["tokens"], tokens["tokens"])
    with pytest.raises(ViewError, match="Mixup is a weighted mean"):
        make_views(tokens, key, ViewSpec())

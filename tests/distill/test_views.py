"""Views: one pure function of images, key and specification."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.distill import ViewError, ViewSpec, make_views
from tfcompress.distill.crops import Boxes, crop_and_resize, mixup, sample_boxes
from tfcompress.distill.spec import CROPS, MODES

# Values lie in [0, 1]: a few float32 roundings of sums of products.
CLOSE = 1e-5


def images_of(count=4, height=8, width=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, height, width, channels)
    return tf.constant(rng.uniform(size=shape).astype("float32"))


def key_of(seed, step):
    return tf.constant([seed, step], tf.int32)


def boxes_of(top, left, height, width, flip):
    floats = (np.asarray(x, np.float32) for x in (top, left, height, width))
    return Boxes(*map(tf.constant, floats), tf.constant(flip))


def whole(count, flip=False):
    zeros, ones = [0.0] * count, [1.0] * count
    return boxes_of(zeros, zeros, ones, ones, [flip] * count)


specs = st.builds(
    ViewSpec,
    mode=st.sampled_from(MODES),
    crop=st.sampled_from(CROPS),
    flip=st.sampled_from([None, False, True]),
    smallest_area=st.sampled_from([0.05, 0.5, 1.0]),
)
shapes = st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9))
sizes = st.one_of(st.none(), st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=60, deadline=None)
@given(specs, shapes, sizes, st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_same_key_same_views_bit_for_bit(spec, shape, size, seed, step):
    images = images_of(*shape)
    one, two = (
        make_views(
            images, key_of(seed, step), spec, teacher_size=size, student_size=size
        )
        for _ in range(2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    height, width = size or shape[1:]
    assert one.student.shape == one.teacher.shape == (shape[0], height, width, 1)
    assert 0.0 <= float(one.mix) <= 1.0
    assert (float(one.mix) == 1.0) == (spec.mode != "function_matching")


@settings(max_examples=60, deadline=None)
@given(specs, shapes, sizes, st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_consistent_modes_show_both_the_same(spec, shape, size, seed, step):
    views = make_views(
        images_of(*shape),
        key_of(seed, step),
        spec,
        teacher_size=size,
        student_size=size,
    )
    if spec.mode in ("consistent", "function_matching"):
        np.testing.assert_array_equal(views.teacher, views.student)
    assert np.isfinite(views.teacher).all()
    assert np.isfinite(views.student).all()


@pytest.mark.parametrize("mode", MODES)
def test_other_steps_and_seeds_give_other_views(mode):
    images = images_of(6)
    spec = ViewSpec(mode=mode, flip=True)
    views = [
        make_views(images, key_of(*key), spec).student
        for key in ((0, 0), (0, 1), (1, 0), (7, 123))
    ]
    for i, a in enumerate(views):
        for b in views[:i]:
            assert np.abs(a - b).max() > 0.01


def test_independent_crops_differ():
    views = make_views(images_of(), key_of(0, 0), ViewSpec(mode="independent"))
    assert np.abs(views.teacher - views.student).max() > 0.01


def test_fixed_shows_the_teacher_the_untouched_image():
    images = images_of()
    views = make_views(images, key_of(0, 0), ViewSpec(mode="fixed", flip=True))
    np.testing.assert_array_equal(views.teacher, images)
    assert np.abs(views.student - images).max() > 0.01


def test_no_crop_shows_untouched_images():
    images = images_of()
    for mode in ("fixed", "independent", "consistent"):
        views = make_views(images, key_of(0, 0), ViewSpec(mode=mode, crop="none"))
        np.testing.assert_array_equal(views.teacher, images)
        np.testing.assert_array_equal(views.student, images)


def test_function_matching_mixes_the_consistent_view():
    images = images_of()
    plain = make_views(images, key_of(3, 4), ViewSpec(mode="consistent"))
    mixed = make_views(images, key_of(3, 4), ViewSpec(mode="function_matching"))
    share = float(mixed.mix)
    partner = np.roll(plain.student, 1, axis=0)
    expected = share * plain.student + (1.0 - share) * partner
    np.testing.assert_allclose(mixed.student, expected, atol=CLOSE)


def test_mixing_share_is_uniform():
    images = images_of(2, 2, 2)
    spec = ViewSpec(crop="none")
    step = tf.function(lambda k: make_views(images, k, spec).mix)
    shares = np.array([step(key_of(0, i)) for i in range(1000)])
    # Four standard errors of mean and of variance 1/12.
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.var() - 1 / 12) < 0.011
    assert len(np.unique(shares)) > 990


def expected_crop(image, top, left, height, width, flip, size):
    """Linear interpolation with antialiasing, pixel by pixel, in double precision."""

    def weights(start, length, n_in, n_out, place):
        scale = length * n_in / n_out
        centre = start * n_in + (place + 0.5) * scale
        support = max(scale, 1.0)
        around = [1.0 - abs(centre - (i + 0.5)) / support for i in range(n_in)]
        around = np.maximum(around, 0.0)
        return around / around.sum()

    result = np.zeros((*size, image.shape[2]))
    for y in range(size[0]):
        rows = weights(top, height, image.shape[0], size[0], y)
        for x in range(size[1]):
            place = size[1] - 1 - x if flip else x
            columns = weights(left, width, image.shape[1], size[1], place)
            result[y, x] = np.einsum("h,w,hwc->c", rows, columns, image)
    return result


@settings(max_examples=25, deadline=None)
@given(
    shapes,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
    st.booleans(),
)
def test_crop_and_resize_against_numpy(shape, size, draw, flip):
    height, width = 0.2 + 0.8 * draw[0], 0.2 + 0.8 * draw[1]
    top, left = draw[2] * (1.0 - height), draw[3] * (1.0 - width)
    images = images_of(*shape, channels=2)
    count = shape[0]
    box = ([x] * count for x in (top, left, height, width))
    result = crop_and_resize(images, boxes_of(*box, [flip] * count), size)
    for image, found in zip(images.numpy(), result.numpy(), strict=True):
        expected = expected_crop(image, top, left, height, width, flip, size)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_each_image_gets_its_own_box():
    images = images_of(3)
    boxes = boxes_of(
        [0.0, 0.5, 0.25], [0.1, 0.0, 0.25], [0.5] * 3, [0.5, 1.0, 0.75], [0, 1, 1]
    )
    boxes = boxes._replace(flip=tf.cast(boxes.flip, tf.bool))
    together = crop_and_resize(images, boxes, (5, 6))
    for i in range(3):
        one = Boxes(*(field[i : i + 1] for field in boxes))
        alone = crop_and_resize(images[i : i + 1], one, (5, 6))
        np.testing.assert_allclose(together[i : i + 1], alone, atol=CLOSE)


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (5, 7), (8, 3)])
def test_whole_image_resizes_as_tensorflow_does(size):
    images = images_of(3, 8, 8, 2)
    expected = tf.image.resize(images, size, antialias=True)
    np.testing.assert_allclose(
        crop_and_resize(images, whole(3), size), expected, atol=CLOSE
    )


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (28, 28), (3, 32)])
def test_the_whole_box_is_the_identity(shape):
    images = images_of(3, *shape)
    np.testing.assert_allclose(
        crop_and_resize(images, whole(3), shape), images, atol=CLOSE
    )


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (28, 28)])
def test_flip_mirrors(shape):
    images = images_of(3, *shape)
    mirrored = crop_and_resize(images, whole(3, flip=True), shape)
    np.testing.assert_allclose(mirrored, images[:, :, ::-1], atol=CLOSE)


def test_flip_mirrors_the_crop_and_not_its_place():
    images = images_of(2)
    box = ([0.1, 0.3], [0.0, 0.4], [0.5, 0.7], [0.4, 0.6])
    plain = crop_and_resize(images, boxes_of(*box, [False] * 2), (8, 8))
    flipped = crop_and_resize(images, boxes_of(*box, [True] * 2), (8, 8))
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=CLOSE)


def test_half_of_the_crops_are_mirrored():
    spec = ViewSpec(crop="none", flip=True)
    flips = sample_boxes(tf.range(4000), key_of(0, 0), spec).flip.numpy()
    assert abs(flips.mean() - 0.5) < 0.032
    for never in (False, None):
        spec = ViewSpec(crop="none", flip=never)
        assert not sample_boxes(tf.range(4000), key_of(0, 0), spec).flip.numpy().any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0), sizes)
def test_cropping_commutes_with_mixup(step, share, size):
    images = images_of(4)
    # One box for the batch: the partner of an image is cut at the same place.
    box = sample_boxes(tf.range(1), key_of(0, step), ViewSpec(flip=True))
    boxes = Boxes(*(tf.repeat(field, 4) for field in box))
    size = size or (8, 8)
    first = crop_and_resize(mixup(images, share), boxes, size)
    last = mixup(crop_and_resize(images, boxes, size), share)
    np.testing.assert_allclose(first, last, atol=CLOSE)


def test_mixup_keeps_the_mean_and_pairs_each_image_once():
    images = images_of(5)
    mixed = mixup(images, 0.3)
    assert np.mean(mixed) == pytest.approx(np.mean(images), abs=CLOSE)
    np.testing.assert_array_equal(mixup(images, 1.0), images)
    np.testing.assert_array_equal(mixup(images, 0.0), np.roll(images, 1, axis=0))


@settings(max_examples=25, deadline=None)
@given(specs, shapes, sizes, st.floats(-3.0, 3.0), st.integers(0, 10**6))
def test_constant_images_stay_constant(spec, shape, size, value, step):
    images = tf.fill((*shape, 1), tf.constant(value, tf.float32))
    views = make_views(
        images, key_of(0, step), spec, teacher_size=size, student_size=size
    )
    np.testing.assert_allclose(views.student, value, atol=1e-5)
    np.testing.assert_allclose(views.teacher, value, atol=1e-5)


def test_shrinking_does_not_alias():
    # A pattern of single pixels: plain interpolation would show either colour.
    stripes = np.zeros((1, 32, 32, 1), np.float32)
    stripes[:, :, ::2] = 1.0
    small = crop_and_resize(tf.constant(stripes), whole(1), (8, 8)).numpy()
    np.testing.assert_allclose(small[:, :, 1:-1], 0.5, atol=0.02)


@pytest.mark.parametrize("crop", CROPS)
def test_boxes_lie_inside_the_image(crop):
    boxes = sample_boxes(tf.range(5000), key_of(1, 2), ViewSpec(crop=crop))
    top, left, height, width = (field.numpy() for field in boxes[:4])
    for start, length in ((top, height), (left, width)):
        assert (start >= 0).all()
        assert (length > 0).all()
        assert (start + length <= 1.0 + 1e-6).all()


def test_inception_boxes_have_the_stated_area_and_ratio():
    spec = ViewSpec(crop="inception", smallest_area=0.2)
    boxes = sample_boxes(tf.range(5000), key_of(1, 2), spec)
    height, width = boxes.height.numpy(), boxes.width.numpy()
    free = (height < 1.0) & (width < 1.0)
    area, ratio = height * width, width / height
    assert area.max() <= 1.0
    assert area[free].min() >= 0.2 - 1e-6
    assert area[free].min() < 0.22
    assert ratio.min() >= 0.75 - 1e-6
    assert ratio.max() <= 4 / 3 + 1e-6
    # Places fill the room that is left.
    assert (boxes.top.numpy()[free] / (1.0 - height[free])).max() > 0.98


def test_mild_boxes_have_seven_eighths_to_all_of_each_side():
    boxes = sample_boxes(tf.range(1000), key_of(1, 2), ViewSpec(crop="mild"))
    np.testing.assert_array_equal(boxes.height, boxes.width)
    height = boxes.height.numpy()
    assert 0.875 <= height.min() < 0.88 and 0.995 < height.max() <= 1.0
    # Places fill the room that is left, each axis on its own.
    top, left = (side.numpy() / (1.0 - height) for side in (boxes.top, boxes.left))
    assert top.min() < 0.01 and 0.99 < top.max() <= 1.0 + 1e-5
    assert np.corrcoef(top, left)[0, 1] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crop", ["mild", "inception"])
def test_xla_gives_the_same_views(mode, crop):
    images = images_of(5, 9, 7, 2)
    spec = ViewSpec(mode=mode, crop=crop, flip=True)
    compiled = tf.function(lambda x, k: make_views(x, k, spec), jit_compile=True)
    graph = tf.function(lambda x, k: make_views(x, k, spec))
    key = key_of(11, 12)
    eager = make_views(images, key, spec)
    # The random numbers are the same; sums of products may round differently.
    for result in (compiled(images, key), graph(images, key)):
        for a, b in zip(result, eager, strict=True):
            np.testing.assert_allclose(a, b, atol=CLOSE)


def test_pixels_as_bytes_become_floats():
    pixels = tf.cast(images_of() * 255, tf.uint8)
    spec = ViewSpec(mode="consistent")
    views = make_views(pixels, key_of(0, 0), spec)
    expected = make_views(tf.cast(pixels, tf.float32), key_of(0, 0), spec)
    assert views.student.dtype == tf.float32
    np.testing.assert_array_equal(views.student, expected.student)


def test_half_precision_images_stay_so():
    images = tf.cast(images_of(), tf.bfloat16)
    views = make_views(images, key_of(0, 0), ViewSpec(flip=True))
    assert views.student.dtype == tf.bfloat16


def test_unknown_names_give_the_nearest():
    with pytest.raises(ViewError, match="did you mean 'consistent'"):
        ViewSpec(mode="consistant")
    with pytest.raises(ViewError, match="did you mean 'inception'"):
        ViewSpec(crop="inceptoin")


@pytest.mark.parametrize("area", [0.0, -0.1, 1.1, float("nan")])
def test_areas_out_of_range(area):
    with pytest.raises(ViewError, match=r"smallest_area must lie in \(0, 1\]"):
        ViewSpec(smallest_area=area)


def test_open_flip_is_decided_by_the_data():
    assert ViewSpec().for_data(True).flip is True
    assert ViewSpec().for_data(False).flip is False
    assert ViewSpec(flip=False).for_data(True).flip is False
    assert ViewSpec(flip=True).for_data(False).flip is True


WHOLE = ViewSpec(mode="consistent", crop="none", flip=False)


@pytest.mark.parametrize(
    "inputs",
    [
        np.arange(12, dtype="int32").reshape(3, 4),
        {"tokens": np.ones((2, 5), "int32"), "mask": np.ones((2, 5), bool)},
        [np.zeros((2, 3), "float32"), np.zeros((2, 4, 4, 1), "float32")],
    ],
    ids=["token ids", "dict", "list"],
)
def test_inputs_that_are_no_images_stay_as_they_are(inputs):
    views = make_views(inputs, tf.constant([0, 1]), WHOLE)
    assert views.student is views.teacher is inputs


@pytest.mark.parametrize(
    "spec", [ViewSpec(crop="mild"), ViewSpec(crop="none", flip=True)]
)
def test_only_images_can_be_cropped(spec):
    with pytest.raises(ViewError, match=r"crop='none'.*Received: .*\(6, 4\)"):
        make_views(np.zeros((6, 4), "float32"), tf.constant([0, 1]), spec)


def test_images_of_unknown_size_can_be_cropped():
    spec = ViewSpec(mode="consistent", crop="mild", flip=True)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 1))])
    def view(images):
        return make_views(images, tf.constant([0, 1]), spec).student

    images = np.random.default_rng(0).normal(size=(3, 8, 10, 1)).astype("float32")
    found = view(images)
    known = make_views(images, tf.constant([0, 1]), spec).student
    assert found.shape == images.shape
    np.testing.assert_allclose(found, known, atol=1e-6)

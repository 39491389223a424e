"""The detector's cells: what they say is what the boxes were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.tasks import (
    average_precision,
    decode_boxes,
    detection_divergence,
    detection_loss,
)
from tfcompress.tasks.boxes import _targets, cell_distances

CLASSES, GRID = 3, 6


def perfect(boxes):
    """Cells of a detector that knows the boxes."""
    heat, sides, _ = (np.asarray(x) for x in _targets(boxes, (GRID, GRID), CLASSES))
    sure = np.clip(heat, 1e-4, 1 - 1e-4)
    return np.concatenate([np.log(sure / (1 - sure)), sides], axis=-1)


@st.composite
def apart(draw):
    """Boxes in 48 pixels whose middles lie in cells far from each other."""
    rows = []
    for top, left in draw(st.permutations([(4, 4), (4, 28), (28, 4)]))[:2]:
        height, width = (draw(st.integers(6, 16)) for _ in range(2))
        rows.append([top, left, top + height, left + width, draw(st.integers(0, 2))])
    return np.array([[*rows, [-1] * 5]], np.float32)


@settings(max_examples=25, deadline=None)
@given(apart())
def test_boxes_come_back_from_perfect_cells(boxes):
    found, scores, classes = decode_boxes(perfect(boxes))
    best = scores[0] > 0.9
    order = np.lexsort(found[0, best].T)
    wanted = boxes[0, :2]
    right = np.lexsort(wanted[:, :4].T)
    np.testing.assert_allclose(found[0, best][order], wanted[right, :4], atol=1e-3)
    np.testing.assert_array_equal(classes[0, best][order], wanted[right, 4])
    score = average_precision(
        list(boxes), list(zip(found, scores, classes, strict=True)), classes=CLASSES
    )
    assert score["map"] == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(apart(), st.integers(0, 1000))
def test_perfect_cells_have_the_least_loss(boxes, seed):
    cells = perfect(boxes)
    noise = np.random.default_rng(seed).normal(0.0, 0.5, cells.shape)
    right = float(detection_loss(boxes, cells)[0])
    assert 0.0 <= right < 0.02
    assert float(detection_loss(boxes, cells + noise)[0]) > right


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_divergence_is_zero_for_the_same_and_positive_else(seed):
    random = np.random.default_rng(seed)
    old, new = random.normal(0.0, 3.0, (2, 4, GRID, GRID, CLASSES + 4))
    assert float(detection_divergence(old, old)) == 0.0
    distances = cell_distances(old, new).numpy()
    assert distances.shape == (4,) and np.all(distances > 0.0)
    assert float(detection_divergence(old, new)) == pytest.approx(distances.mean())


def test_boxes_count_only_where_the_teacher_sees_something():
    old = np.full((1, 2, 2, CLASSES + 4), -30.0, np.float32)
    new = old.copy()
    new[..., CLASSES:] += 5.0
    assert float(detection_divergence(old, new)) < 1e-6
    old[0, 0, 0, 0] = new[0, 0, 0, 0] = 30.0
    assert float(detection_divergence(old, new)) == pytest.approx(20.0)


def test_precision_falls_with_what_is_wrong():
    target = np.array([[4.0, 4.0, 24.0, 24.0, 1.0], [0.0, 0.0, 0.0, 0.0, -1.0]])

    def score(box, classes):
        return average_precision([target], [([box], [0.8], classes)], classes=2)

    exact = score([4.0, 4.0, 24.0, 24.0], [1])
    shifted = score([7.0, 4.0, 27.0, 24.0], [1])
    assert exact == {"map": pytest.approx(1.0), "map_50": pytest.approx(1.0)}
    # IoU 17 / 23: right at five of the ten overlaps from 0.5 to 0.95.
    assert shifted == {"map": pytest.approx(0.5), "map_50": pytest.approx(1.0)}
    assert score([4.0, 4.0, 24.0, 24.0], [0])["map"] == 0.0
    nothing = average_precision([target], [([], [], [])], classes=2)
    assert nothing == {"map": 0.0, "map_50": 0.0}


def test_without_pycocotools_the_way_out_is_named(monkeypatch):
    import sys
    from types import SimpleNamespace

    from tfcompress.errors import TfcompressError
    from tfcompress.stages import Teacher

    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(TfcompressError, match=r"tfcompress\[detection\]"):
        average_precision([], [], classes=2)
    # And before anything is trained.
    data = SimpleNamespace(task="detection", num_classes=2)
    with pytest.raises(TfcompressError, match=r"tfcompress\[detection\]"):
        Teacher().check(data)

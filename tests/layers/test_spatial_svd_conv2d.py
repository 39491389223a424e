"""SpatialSVDConv2D against the Conv2D layer it replaces."""

import conformance as c
import numpy as np
from conformance_conv2d import Conv2DTypeTests, built

from tfcompress.layers import SpatialSVDConv2D


class TestSpatialSVDConv2D(Conv2DTypeTests):
    cls = SpatialSVDConv2D
    low = 5
    cut = 2
    bad_ranks = (0, -2, 13, (2, 2), (), 1.5, True)
    unsupported = (
        (built(4, (3, 1)), "one row or column"),
        (built(4, 1), "one row or column"),
    )


def test_separable_kernel_is_exact_at_rank_one():
    """An outer product of a column and a row, of one channel each way."""
    dense = built(1, 5, 1)
    column, row = c.normal((5, 1)), c.normal((1, 5), 1)
    dense.kernel.assign((column @ row)[:, :, None, None])
    low = SpatialSVDConv2D.from_layer(dense, 1)
    np.testing.assert_allclose(low.kernel(), dense.kernel, atol=1e-5)

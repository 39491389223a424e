"""ChannelSVDConv2D against the Conv2D layer it replaces."""

import numpy as np
import pytest
from conformance_conv2d import Conv2DTypeTests, built

from tfcompress.layers import ChannelSVDConv2D


class TestChannelSVDConv2D(Conv2DTypeTests):
    cls = ChannelSVDConv2D
    low = 3
    cut = 1
    bad_ranks = (0, -2, 7, (2, 2), (), 1.5, True)
    unsupported = ()


def test_of_a_1x1_kernel_is_the_svd_of_a_dense_one():
    dense = built(8, 1, 6)
    low = ChannelSVDConv2D.from_layer(dense, 3)
    values = np.linalg.svd(np.array(dense.kernel)[0, 0], compute_uv=False)
    error = np.linalg.norm(low.kernel() - np.array(dense.kernel))
    assert error == pytest.approx(np.linalg.norm(values[3:]), rel=1e-4)

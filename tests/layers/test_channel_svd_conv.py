"""ChannelSVDConv1D, 2D, 3D against the convolutions they replace."""

import conformance_conv as conv
import keras
import numpy as np
import pytest
from conformance_conv2d import Conv2DTypeTests, built

from tfcompress.layers import ChannelSVDConv1D, ChannelSVDConv2D, ChannelSVDConv3D


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


@conv.each_case
def test_conformance_of_one_and_three_dimensions(stock, name, options, shape):
    cls = ChannelSVDConv1D if stock is keras.layers.Conv1D else ChannelSVDConv3D
    conv.check(cls, stock, name, options, shape)

"""Tucker2Conv1D, 2D, 3D against the convolutions they replace."""

import conformance_conv as conv
import keras
import numpy as np
from conformance_conv2d import Conv2DTypeTests, built

from tfcompress.layers import Tucker2Conv1D, Tucker2Conv2D, Tucker2Conv3D


class TestTucker2Conv2D(Conv2DTypeTests):
    cls = Tucker2Conv2D
    low = (2, 3)
    cut = (1, 2)
    bad_ranks = (2, (0, 2), (2, 0), (5, 2), (2, 7), (2, 2, 2), (), (1.5, 2))
    unsupported = ((built(4, 1), "1x1 convolution"),)


def test_error_is_that_of_tensorly():
    from tensorly.decomposition import partial_tucker
    from tensorly.tenalg import multi_mode_dot

    dense = built(24, 3, 16)
    kernel = np.array(dense.kernel)
    (core, factors), _ = partial_tucker(
        kernel, rank=[6, 8], modes=[2, 3], init="svd", n_iter_max=50, tol=1e-7
    )
    expected = np.linalg.norm(multi_mode_dot(core, factors, modes=[2, 3]) - kernel)
    low = Tucker2Conv2D.from_layer(dense, (6, 8))
    assert np.linalg.norm(low.kernel() - kernel) <= 1.005 * expected


def test_factors_have_one_scale():
    low = Tucker2Conv2D.from_layer(built(24, 3, 16), (6, 8))
    sizes = [np.sqrt(np.mean(np.square(f))) for f in low.factors().values()]
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-4)


@conv.each_case
def test_conformance_of_one_and_three_dimensions(stock, name, options, shape):
    cls = Tucker2Conv1D if stock is keras.layers.Conv1D else Tucker2Conv3D
    conv.check(cls, stock, name, options, shape)

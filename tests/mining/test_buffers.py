"""Arrays whose memory is a tensor's too."""

import gc

import numpy as np
import pytest

from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.mining import buffers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 1000)])
def test_tensors_have_the_numbers_of_their_arrays(rng, shape, dtype):
    array = buffers.zeros(shape, dtype)
    assert array.shape == shape
    assert array.ctypes.data % 64 == 0
    assert not array.any()
    array[:] = expected = rng.normal(size=shape).astype(dtype)
    tensor = buffers.as_tensor(array)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    del array
    gc.collect()
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_a_tensor_takes_no_memory_beside_its_array():
    array = buffers.zeros((4000, 1000), np.float32)
    array[:] = 1.0
    tensor, extra = peak_extra_memory(lambda: buffers.as_tensor(array[:3000]))
    assert tensor.shape == (3000, 1000)
    assert extra < 4e6

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)


@pytest.fixture
def dtype_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)

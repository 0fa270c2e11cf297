"""The bank of prototypes, its file, and the side input of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def training(rng):
    image = rng.integers(0, 256, size=(12, 4, 4, 3)).astype(np.uint8)
    return image, np.array([f"image_{n}" for n in range(12)]), rng.random(12)


@pytest.fixture
def prototypes(training):
    return Prototypes.from_selection([np.array([5, 2, 9]), np.array([7])], *training)


def test_selection_is_padded_to_the_largest_class(prototypes, training):
    image, _ids, robustness = training
    np.testing.assert_array_equal(prototypes.mask, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(prototypes.image[0], image[[5, 2, 9]])
    np.testing.assert_array_equal(prototypes.image[1, 0], image[7])
    assert not prototypes.image[1, 1:].any()
    assert prototypes.example_id.tolist() == [
        ["image_5", "image_2", "image_9"],
        ["image_7", "", ""],
    ]
    np.testing.assert_array_equal(prototypes.robustness[0], robustness[[5, 2, 9]])


def test_file_keeps_everything_and_the_order(prototypes, tmp_path):
    prototypes.save(tmp_path / "prototypes.npz")
    loaded = Prototypes.load(tmp_path / "prototypes.npz")
    for name, value in vars(prototypes).items():
        np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
    with np.load(tmp_path / "prototypes.npz") as stored:
        np.testing.assert_array_equal(stored["class_index"], [0, 0, 0, 1])
        assert stored["image"].shape == (4, 4, 4, 3)


def test_prototypes_are_found_by_id_after_a_shuffle(prototypes, training):
    ids = training[1][::-1]
    np.testing.assert_array_equal(
        prototypes.example_index(ids), [[6, 9, 2], [4, -1, -1]]
    )


def test_prototypes_of_other_data_are_an_error(prototypes):
    with pytest.raises(PmalError, match=r"image_5.*4 in all"):
        prototypes.example_index(np.array(["other_1", "other_2"]))


def test_side_input_rides_on_every_batch(prototypes, training):
    image, ids, _ = training
    features = {"image": image, "example_index": np.arange(12)}
    dataset = tf.data.Dataset.from_tensor_slices((features, np.zeros(12, int)))
    batches = list(prototypes.attach(dataset.batch(5), ids))
    assert len(batches) == 3
    for batch, _label in batches:
        # Classes in turn, and no padding.
        np.testing.assert_array_equal(batch["prototype_slot"], [0, 3, 1, 2])
        flat = prototypes.image.reshape(-1, 4, 4, 3)
        np.testing.assert_array_equal(batch["prototype_image"], flat[[0, 3, 1, 2]])
        np.testing.assert_array_equal(
            batch["prototype_index"], [[5, 2, 9], [7, -1, -1]]
        )
        np.testing.assert_array_equal(batch["prototype_mask"], prototypes.mask)


def test_plain_pairs_belong_to_no_prototype(prototypes, training):
    image, ids, _ = training
    dataset = tf.data.Dataset.from_tensor_slices((image, np.zeros(12, int))).batch(4)
    batch, _label = next(iter(prototypes.attach(dataset, ids)))
    # Neither an image's position nor the padding's.
    assert not np.isin(batch["example_index"], batch["prototype_index"]).any()

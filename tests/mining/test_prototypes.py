"""The bank of prototypes, its file, and the side input of a batch."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.errors import PmalError
from pmal_tf.mining.mine import mine
from pmal_tf.mining.prototypes import Prototypes


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
        np.testing.assert_array_equal(batch["prototype_image"], prototypes.image)
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


def test_mining_reports_every_class(rng):
    class_index = np.repeat([0, 1, 2], [30, 20, 3])
    ids = np.arange(53).astype(str)
    result = mine(
        [rng.normal(size=(53, 6)), rng.normal(size=(53, 6))],
        [rng.normal(size=(6, 3)), rng.normal(size=(6, 3))],
        class_index,
        ids,
        class_names=["cat", "dog", "rare"],
        epsilon=1.0,
        prototypes_per_class=5,
    )
    assert [len(chosen) for chosen in result.selection] == [5, 5, 3]
    for k, (chosen, report) in enumerate(
        zip(result.selection, result.report, strict=True)
    ):
        assert (class_index[chosen] == k).all()
        # Algorithm 1 starts from the class's most robust image.
        members = np.flatnonzero(class_index == k)
        robustness = result.robustness.robustness[members]
        assert chosen[0] == members[robustness.argmax()]
        assert report.robustness_max == robustness.max()
        assert report.images == len(members)
        assert report.relaxed


def test_mining_does_not_depend_on_the_order_of_images(rng):
    spaces = [rng.normal(size=(60, 5)) for _ in range(2)]
    kernels = [rng.normal(size=(5, 2)) for _ in range(2)]
    class_index, ids = np.arange(60) % 2, np.arange(60).astype(str)
    shuffle = rng.permutation(60)

    def chosen_ids(order):
        result = mine(
            [space[order] for space in spaces],
            kernels,
            class_index[order],
            ids[order],
            class_names=["a", "b"],
            prototypes_per_class=4,
        )
        return [ids[order][chosen].tolist() for chosen in result.selection]

    assert chosen_ids(shuffle) == chosen_ids(np.arange(60))


def test_repeated_ids_and_other_lengths_are_errors(rng):
    spaces = [rng.normal(size=(4, 5)) for _ in range(2)]
    kernels = [rng.normal(size=(5, 2)) for _ in range(2)]
    label = np.array([0, 0, 1, 1])
    with pytest.raises(PmalError, match="repeated ids"):
        mine(spaces, kernels, label, np.array(list("abca")), class_names="ab")
    with pytest.raises(PmalError, match="3 ids"):
        mine(spaces, kernels, label, np.array(list("abc")), class_names="ab")

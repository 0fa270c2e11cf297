"""The prototypes, their file, and which of them come with a batch."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.data.batches.pipeline import ONE_REPLICA, HostReplicas
from pmal_tf.methods.pmal.prototypes import Prototypes, PrototypeSchedule
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


# Class 0 has three prototypes, class 1 one, class 2 two.
MASK = np.array([[True, True, True], [True, False, False], [True, True, False]])
# All first prototypes, then all second ones, then the third.
IN_TURN = [0, 3, 6, 1, 7, 2]


def chosen(schedule, steps, share=ONE_REPLICA):
    choose = schedule.chooser(MASK, share)
    numbers = range(steps * share.local)
    return [choose(tf.constant(n, tf.int64)).numpy().tolist() for n in numbers]


def test_all_prototypes_and_no_padding_in_every_step():
    assert chosen(PrototypeSchedule(), 2) == [IN_TURN, IN_TURN]
    assert chosen(PrototypeSchedule(size=100), 1) == [IN_TURN]


def test_slices_go_around():
    assert chosen(PrototypeSchedule(size=4), 4) == [
        [0, 3, 6, 1],
        [7, 2, 0, 3],
        [6, 1, 7, 2],
        [0, 3, 6, 1],
    ]


def test_every_so_many_steps():
    assert chosen(PrototypeSchedule(every=3), 4) == [IN_TURN, [], [], IN_TURN]


@pytest.mark.parametrize("size", [None, 4])
def test_replicas_share_a_step_without_overlap(size):
    schedule = PrototypeSchedule(size=size)
    alone = chosen(schedule, 3)
    first = chosen(schedule, 3, HostReplicas(replicas=3, first=0, local=2))
    second = chosen(schedule, 3, HostReplicas(replicas=3, first=2, local=1))
    for step in range(3):
        parts = [*first[2 * step : 2 * step + 2], second[step]]
        assert [len(part) for part in parts] in ([2, 2, 2], [2, 1, 1])
        assert sorted(np.concatenate(parts)) == sorted(alone[step])

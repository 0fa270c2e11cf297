import dataclasses
import itertools

import numpy as np
import pytest

from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.runtime.errors import PmalError


def make_pipeline(count=23, batch_size=5, seed=0, augment=False, **options):
    generator = np.random.default_rng(0)
    return TrainingPipeline(
        image=generator.integers(1, 256, (count, 6, 7, 3)).astype(np.uint8),
        label=np.arange(count) % 4,
        example_id=np.array([f"train_{n}" for n in range(count)]),
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        **options,
    )


def stream(pipeline, first_epoch, last_epoch):
    return list(pipeline.batches(first_epoch, last_epoch).as_numpy_iterator())


def indices(batches):
    return np.concatenate([features["example_index"] for features, _ in batches])


def pixels(batches):
    return np.concatenate([features["image"] for features, _ in batches])


def assert_equal_streams(one, other):
    assert len(one) == len(other)
    for (features, label), (other_features, other_label) in zip(
        one, other, strict=True
    ):
        np.testing.assert_array_equal(label, other_label)
        assert set(features) == set(other_features)
        for name, value in features.items():
            np.testing.assert_array_equal(value, other_features[name])


def test_the_order_is_not_the_stored_one_and_differs_by_epoch_and_seed():
    orders = [
        tuple(indices(stream(make_pipeline(24, 6, seed), epoch, epoch + 1)).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len({tuple(range(24)), *orders}) == 1 + 9
    assert all(sorted(order) == list(range(24)) for order in orders)


def test_every_image_comes_first_about_equally_often():
    pipeline = make_pipeline(count=4, batch_size=4)
    order = indices(stream(pipeline, 0, 400)).reshape(400, 4)
    counts = np.bincount(order[:, 0], minlength=4)
    # The 0.999 quantile of chi-square with 3 degrees of freedom.
    assert ((counts - 100) ** 2 / 100).sum() < 16.3


@pytest.mark.parametrize("augment", [False, True])
def test_the_stream_does_not_depend_on_the_stored_order(augment):
    stored = make_pipeline(augment=augment)
    order = np.random.default_rng(1).permutation(len(stored.label))
    shuffled = dataclasses.replace(
        stored,
        image=stored.image[order],
        label=stored.label[order],
        example_id=stored.example_id[order],
    )
    one, other = stream(stored, 0, 3), stream(shuffled, 0, 3)
    np.testing.assert_array_equal(
        stored.example_id[indices(one)], shuffled.example_id[indices(other)]
    )
    np.testing.assert_array_equal(pixels(one), pixels(other))
    for (_, label), (_, other_label) in zip(one, other, strict=True):
        np.testing.assert_array_equal(label, other_label)


@pytest.mark.parametrize("augment", [False, True])
def test_starting_at_epoch_2_equals_going_on_to_it(augment):
    pipeline = make_pipeline(augment=augment)
    whole = stream(pipeline, 0, 4)
    late = stream(pipeline, 2, 4)
    assert_equal_streams(late, whole[2 * pipeline.steps_per_epoch :])


def test_the_last_part_batch_of_every_epoch_is_dropped():
    pipeline = make_pipeline(count=23, batch_size=5)
    assert (pipeline.images_per_batch, pipeline.steps_per_epoch) == (5, 4)
    batches = stream(pipeline, 0, 3)
    assert [len(label) for _, label in batches] == [5] * 12
    per_epoch = indices(batches).reshape(3, 20)
    assert all(len(set(order)) == 20 for order in per_epoch.tolist())


def test_other_images_are_dropped_in_the_next_epoch():
    pipeline = make_pipeline(count=23, batch_size=5)
    per_epoch = indices(stream(pipeline, 0, 30)).reshape(30, 20)
    dropped = [set(range(23)) - set(order) for order in per_epoch.tolist()]
    assert all(len(images) == 3 for images in dropped)
    assert dropped[0] != dropped[1]
    assert set.union(*dropped) == set(range(23))


def test_fewer_images_than_a_batch_make_one_batch():
    pipeline = make_pipeline(count=3, batch_size=128)
    assert (pipeline.images_per_batch, pipeline.steps_per_epoch) == (3, 1)
    batches = stream(pipeline, 0, 2)
    assert [sorted(f["example_index"].tolist()) for f, _ in batches] == [[0, 1, 2]] * 2


def test_without_augmentation_pixels_and_labels_are_exact():
    pipeline = make_pipeline(augment=False)
    batches = stream(pipeline, 0, 2)
    np.testing.assert_array_equal(pixels(batches), pipeline.image[indices(batches)])
    labels = np.concatenate([label for _, label in batches])
    np.testing.assert_array_equal(labels, pipeline.label[indices(batches)])
    features, label = batches[0]
    assert features["image"].shape == (5, 6, 7, 3)
    assert features["image"].dtype == np.uint8
    assert (features["example_index"].dtype, label.dtype) == (np.int64, np.int32)


def test_augmentation_shifts_and_mirrors_the_image_itself():
    pipeline = make_pipeline(augment=True)
    batches = stream(pipeline, 0, 2)
    margin = (4, 4)
    seen = set()
    for index, image in zip(indices(batches), pixels(batches), strict=True):
        padded = np.pad(pipeline.image[index], [margin, margin, (0, 0)])
        offsets = range(9)
        found = {
            (top, left, mirror)
            for top, left, mirror in itertools.product(offsets, offsets, (1, -1))
            if (padded[top : top + 6, left : left + 7][:, ::mirror] == image).all()
        }
        assert found
        seen |= found
    assert len(seen) > 20
    assert {mirror for _, _, mirror in seen} == {1, -1}


def test_augmentation_differs_by_epoch_and_leaves_the_order_alone():
    augmented = stream(make_pipeline(24, 6, augment=True), 0, 2)
    plain = stream(make_pipeline(24, 6), 0, 2)
    np.testing.assert_array_equal(indices(augmented), indices(plain))
    first, second = indices(augmented).reshape(2, 24)
    images = pixels(augmented).reshape(2, 24, 6, 7, 3)
    one, other = images[0][np.argsort(first)], images[1][np.argsort(second)]
    changed = (one != other).any(axis=(1, 2, 3))
    # A draw repeats with chance 1 / 162.
    assert changed.sum() >= 20


def test_shift_fill_flip_and_cutout_are_the_pipeline_s():
    options = {"shift": 1, "shift_fill": "reflect", "flip": "alternating"}
    pipeline = make_pipeline(24, 6, augment=True, **options)
    batches = stream(pipeline, 0, 4)
    margin, mirrored = (1, 1), {}
    for index, image in zip(indices(batches), pixels(batches), strict=True):
        padded = np.pad(pipeline.image[index], [margin, margin, (0, 0)], "reflect")
        (mirror,) = {
            mirror
            for top, left, mirror in itertools.product(range(3), range(3), (1, -1))
            if (padded[top : top + 6, left : left + 7][:, ::mirror] == image).all()
        }
        mirrored.setdefault(int(index), []).append(mirror)
    assert {tuple(seen) for seen in mirrored.values()} == {(1, -1) * 2, (-1, 1) * 2}
    painted = pixels(stream(make_pipeline(24, 6, cutout=3), 0, 1))
    assert ((painted == 128).all(axis=3).sum(axis=(1, 2)) >= 4).all()


def test_a_mirrored_edge_must_be_narrower_than_the_image():
    with pytest.raises(PmalError, match=r"shift=6 with shift_fill=reflect.* 6 pixels"):
        make_pipeline(augment=True, shift=6, shift_fill="reflect")
    make_pipeline(augment=True, shift=5, shift_fill="reflect")
    make_pipeline(shift=6, shift_fill="reflect")


def test_an_empty_range_of_epochs_is_an_empty_stream():
    assert stream(make_pipeline(), 2, 2) == []


def test_the_tuner_that_holds_up_the_end_of_a_stage_is_off():
    assert make_pipeline().batches(0, 1).options().autotune.enabled is False


def test_rand_augment_changes_pixels_and_nothing_else():
    plain = make_pipeline(augment=True)
    strong = dataclasses.replace(plain, rand_augment=2, rand_augment_magnitude=20)
    one, other = stream(plain, 0, 2), stream(strong, 0, 2)
    np.testing.assert_array_equal(indices(one), indices(other))
    assert (pixels(one) != pixels(other)).any(axis=(1, 2, 3)).mean() > 0.5
    weak = dataclasses.replace(strong, rand_augment_magnitude=1)
    assert (pixels(stream(weak, 0, 2)) != pixels(other)).any()
    assert_equal_streams(stream(strong, 1, 2), other[4:])

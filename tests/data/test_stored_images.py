import gc
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.data import images as images_module
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.decoding.stored_images import PixelFile, StoredImages, pixel_digests
from pmal_tf.data.images import LabelledImages

COUNT, SIZE = 23, 6


def make_pixels(seed=0, count=COUNT, size=SIZE):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def store(path, pixels):
    path.write_bytes(pixels.tobytes())
    return StoredImages.of_file(PixelFile(path, pixels.shape[1]), pixel_digests(pixels))


@pytest.fixture
def pixels():
    return make_pixels()


@pytest.fixture
def stored(tmp_path, pixels):
    return store(tmp_path / "pixels.bin", pixels)


def assert_same(stored, pixels):
    assert isinstance(stored, StoredImages)
    assert stored.shape == pixels.shape
    assert stored.dtype == pixels.dtype
    assert len(stored) == len(pixels)
    assert stored.nbytes == pixels.nbytes
    np.testing.assert_array_equal(stored[:], pixels)


@pytest.mark.parametrize(
    "index",
    [
        *(slice(None), slice(3, 9), slice(20, 99), slice(None, None, -2), slice(5, 5)),
        *(0, 7, -1, np.int64(22), np.int32(4)),
        *([5, 0, 22, 5], np.array([3], np.int32), np.array([], np.int64), [-2, 1]),
        *(np.array([[1, 2, 3], [3, 2, 22]]), np.zeros((2, 0, 3), np.int64)),
        np.arange(COUNT) % 3 == 0,
        np.zeros(COUNT, bool),
    ],
    ids=repr,
)
def test_an_index_reads_what_it_reads_from_the_array(index, stored, pixels):
    read = stored[index]
    assert isinstance(read, np.ndarray)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels[index])


@pytest.mark.parametrize("index", [COUNT, -COUNT - 1, [0, COUNT]])
def test_a_position_that_does_not_exist_is_an_error(index, stored):
    with pytest.raises(IndexError):
        stored[index]


@pytest.mark.parametrize(
    "index",
    [
        np.array([4, 4, 22, 0]),
        np.arange(COUNT) % 4 == 1,
        np.zeros(COUNT, bool),
        np.array([], np.int64),
    ],
    ids=["positions", "mask", "empty mask", "no positions"],
)
def test_taken_images_stay_on_disk(index, stored, pixels):
    assert_same(stored.take(index), pixels[index])


def test_images_can_be_taken_of_taken_images(stored, pixels):
    mask = np.arange(COUNT) % 2 == 1
    positions = np.array([7, 0, 7, 3])
    assert_same(stored.take(mask).take(positions), pixels[mask][positions])
    assert_same(stored.take(positions).take(positions > 2), pixels[[7, 7, 3]])
    np.testing.assert_array_equal(
        stored.take(mask).take(positions)[1:3], pixels[mask][positions][1:3]
    )


def test_images_of_several_files_follow_each_other(tmp_path, stored, pixels):
    others = [make_pixels(seed, count=4) for seed in (1, 2)]
    second, third = (
        store(tmp_path / f"{n}.bin", other) for n, other in enumerate(others)
    )
    expected = np.concatenate([pixels, *others])
    assert_same(stored.followed_by(second).followed_by(third), expected)
    joined = stored.followed_by(second.followed_by(third))
    assert_same(joined, expected)
    order = np.random.default_rng(3).permutation(len(expected))
    assert_same(joined.take(order), expected[order])
    taken = stored.take(np.array([2, 1])).followed_by(third.take(np.array([3])))
    assert_same(taken, np.stack([pixels[2], pixels[1], others[1][3]]))


def test_the_fingerprint_tells_order_content_and_number(tmp_path, stored, pixels):
    same = store(tmp_path / "same.bin", pixels)
    assert same.fingerprint == stored.fingerprint
    changed = pixels.copy()
    changed[3, 1, 2, 0] ^= 1
    order = np.arange(COUNT)
    other = store(tmp_path / "other.bin", make_pixels(1))
    prints = [
        stored.fingerprint,
        store(tmp_path / "changed.bin", changed).fingerprint,
        stored.take(order[::-1]).fingerprint,
        stored.take(order[:-1]).fingerprint,
        stored.take(order[1:]).fingerprint,
        stored.followed_by(other).fingerprint,
        other.followed_by(stored).fingerprint,
        stored.followed_by(stored).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    # Images of one file are told from those of another at the same place.
    both = stored.followed_by(other)
    one, two = (both.take(np.array([row])).fingerprint for row in (0, COUNT))
    assert one != two


def test_a_file_that_ends_too_early_is_an_error_that_names_it(tmp_path, stored, pixels):
    path = tmp_path / "pixels.bin"
    os.truncate(path, 20 * pixels[0].size + 1)
    np.testing.assert_array_equal(stored[:20], pixels[:20])
    for row in (20, 22):
        with pytest.raises(OSError, match=rf"{path} ends within image {row}"):
            stored[row]


def test_another_file_in_its_place_is_not_noticed(tmp_path, stored, pixels):
    (tmp_path / "new.bin").write_bytes(bytes(pixels.size))
    os.replace(tmp_path / "new.bin", tmp_path / "pixels.bin")
    np.testing.assert_array_equal(stored[:], pixels)
    (tmp_path / "pixels.bin").unlink()
    np.testing.assert_array_equal(stored.take(np.array([3, 1]))[:], pixels[[3, 1]])


def opened(path):
    """Counts the descriptors of this process that lead to a file."""
    links = list(Path("/proc/self/fd").iterdir())
    return sum(os.path.realpath(link) == os.path.realpath(path) for link in links)


def test_the_file_is_closed_once_nothing_reads_from_it(tmp_path, pixels):
    path = tmp_path / "closed.bin"
    stored = store(path, pixels)
    taken = stored.take(np.array([5]))
    assert opened(path) == 1
    del stored
    gc.collect()
    np.testing.assert_array_equal(taken[:], pixels[[5]])
    del taken
    gc.collect()
    assert opened(path) == 0


def labelled(image):
    return LabelledImages(
        image=image,
        label=np.arange(COUNT, dtype=np.int32) % 4,
        example_id=np.array([f"train_{n}" for n in range(COUNT)]),
    )


@pytest.fixture
def both(stored, pixels):
    return labelled(stored), labelled(pixels)


def assert_same_labelled(one, other):
    np.testing.assert_array_equal(one.image[:], other.image[:])
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_array_equal(one.example_id, other.example_id)
    assert one.label.dtype == np.int32
    assert len(one) == len(other) == len(other.image)


@pytest.mark.parametrize(
    "index", [np.array([3, 3, 0, 22]), np.arange(COUNT) % 5 == 2], ids=["rows", "mask"]
)
def test_labelled_images_are_taken_with_labels_and_names(index, both, pixels):
    on_disk, in_memory = (images.take(index) for images in both)
    assert isinstance(on_disk.image, StoredImages)
    assert isinstance(in_memory.image, np.ndarray)
    assert_same_labelled(on_disk, in_memory)
    np.testing.assert_array_equal(in_memory.image, pixels[index])
    np.testing.assert_array_equal(in_memory.label, (np.arange(COUNT) % 4)[index])


@pytest.mark.parametrize("spare", [-1, 0])
def test_labelled_images_on_disk_are_read_if_they_are_small_enough(
    spare, both, pixels, monkeypatch
):
    monkeypatch.setattr(images_module, "_MOST_IN_MEMORY", pixels.nbytes + spare)
    on_disk, in_memory = both
    assert in_memory.in_memory() is in_memory
    if spare < 0:
        assert on_disk.in_memory() is on_disk
    else:
        assert isinstance(on_disk.in_memory().image, np.ndarray)
        assert_same_labelled(on_disk.in_memory(), in_memory)


@pytest.mark.parametrize("kinds", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_labelled_images_of_either_kind_follow_each_other(kinds, both):
    first, second = (
        both[kind].take(np.array(rows))
        for kind, rows in zip(kinds, ([1, 0], [5, 4, 3]), strict=True)
    )
    joined = first.followed_by(second)
    assert_same_labelled(joined, both[1].take(np.array([1, 0, 5, 4, 3])))
    assert isinstance(joined.image, StoredImages) == (kinds == (0, 0))


@pytest.mark.parametrize("kind", [0, 1], ids=["on disk", "in memory"])
def test_the_fingerprint_of_labelled_images_tells_all_they_hold(kind, both):
    images = both[kind]
    other_label, other_id = images.label.copy(), images.example_id.copy()
    other_label[7] += 1
    other_id[7] = "another"
    changed = [
        images,
        LabelledImages(images.image, other_label, images.example_id),
        LabelledImages(images.image, images.label, other_id),
        images.take(np.arange(COUNT)[::-1]),
        images.take(np.arange(COUNT - 1)),
    ]
    # Other pixels under the same labels and names.
    turned = images.take(np.roll(np.arange(COUNT), 4))
    changed.append(LabelledImages(turned.image, images.label, images.example_id))
    prints = [one.fingerprint for one in changed]
    assert len(set(prints)) == len(prints)
    assert labelled(images.image).fingerprint == images.fingerprint


def make_pipeline(images, **options):
    return TrainingPipeline(
        image=images.image,
        label=images.label,
        example_id=images.example_id,
        **{"batch_size": 5, "seed": 3, "augment": False, **options},
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"augment": True}, {"augment": True, "rand_augment": 2}, {"batch_size": 99}],
    ids=["plain", "augment", "rand_augment", "one batch"],
)
def test_training_sees_the_same_batches_from_disk_and_from_memory(
    options, both, tmp_path
):
    order = np.random.default_rng(5).permutation(COUNT)
    other = store(tmp_path / "other.bin", make_pixels(7))
    mixed = labelled(other).followed_by(both[0]).take(COUNT + order)
    streams = [
        list(make_pipeline(images, **options).batches(0, 2).as_numpy_iterator())
        for images in (mixed, both[1].take(order))
    ]
    assert len(streams[0]) == (2 if "batch_size" in options else 8)
    for (one, label), (two, other_label) in zip(*streams, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
        assert one["image"].dtype == np.uint8
        np.testing.assert_array_equal(one["example_index"], two["example_index"])
        np.testing.assert_array_equal(label, other_label)


def test_the_shape_of_batches_from_disk_is_known(both):
    specs = [make_pipeline(images).batches(0, 1).element_spec for images in both]
    assert specs[0] == specs[1]
    assert specs[0][0]["image"] == tf.TensorSpec((5, SIZE, SIZE, 3), tf.uint8)


def memory_in_use():
    """Returns the bytes of this process that are in memory now, mapped files too."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_images_on_disk_are_never_in_memory_all_at_once(tmp_path):
    size, count, batch = 256, 1024, 16
    path = tmp_path / "large.bin"
    path.touch()
    os.truncate(path, count * size * size * 3)  # Zeros that take no room on the disk.
    stored = StoredImages.of_file(
        PixelFile(path, size), np.zeros((count, 16), np.uint8)
    )
    assert stored.nbytes > 200e6
    pipeline = TrainingPipeline(
        image=stored,
        label=np.zeros(count, np.int32),
        example_id=np.arange(count).astype(str),
        batch_size=batch,
        seed=0,
        augment=False,
    )
    before, peak, seen = memory_in_use(), 0, 0
    for features, _ in pipeline.batches(0, 1):
        seen += len(features["image"])
        peak = max(peak, memory_in_use())
    assert seen == count
    # A batch takes 3 MB, and six or so are under way.
    assert peak - before < 80e6

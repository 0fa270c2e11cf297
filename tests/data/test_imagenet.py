import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_tiny import encoded, real_features, write_tfds

from pmal_tf.data.datasets import imagenet
from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.data.images import LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import apply_split, listed_trials, open_set_split
from pmal_tf.runtime.errors import PmalError

SIZE = 6
CIFAR10 = open_source("cifar10", SourceOptions()).class_names


@functools.cache
def wnids():
    return real_features("imagenet2012")["label"].names


def colour_of(label):
    """A colour for each label, the same in all pixels; neighbours differ clearly."""
    return np.array([label % 10, label // 10 % 10, label // 100 % 10]) * 20 + 30


def imagenet_example(label, number=0):
    return {
        "image": encoded(colour_of(label)),
        "label": label,
        "file_name": f"{wnids()[label]}_{number}.JPEG",
    }


# Neither sorted nor without gaps, with classes beyond the first hundred in between.
TRAINED = [*np.random.default_rng(0).permutation(100).tolist(), 100, 999, 199, 200, 7]
TRAINED.insert(3, 150)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a small ImageNet, and one for decoded images."""
    root = tmp_path_factory.mktemp("imagenet")
    tested = np.random.default_rng(1).permutation(1000)
    write_tfds(
        root / "data",
        "imagenet2012",
        {
            "train": [imagenet_example(label, n) for n, label in enumerate(TRAINED)],
            "validation": [imagenet_example(int(label), 5000) for label in tested],
        },
        version="5.1.0",
        shards=2,
    )
    return SourceOptions(
        data_dir=str(root / "data"), cache_dir=str(root / "cache"), image_size=SIZE
    )


def assert_colours(images):
    """Checks that every image has the colour of its label."""
    expected = np.array([colour_of(label) for label in images.label])[:, None, None]
    assert images.image.shape == (len(images), SIZE, SIZE, 3)
    assert images.image.dtype == np.uint8
    # JPEG is not exact; the next colour is 20 away.
    assert np.abs(images.image[:].astype(int) - expected).max() <= 8


def stores_in(cache):
    """Names of what was decoded; locks lie beside."""
    return sorted(path.name for path in cache.glob(f"*_{SIZE}"))


def test_the_list_of_wnids_is_that_of_tfds_in_label_order():
    for name in ("imagenet2012", "imagenet_lt"):
        assert list(imagenet._WNIDS) == real_features(name)["label"].names
    assert list(imagenet._WNIDS) == sorted(set(imagenet._WNIDS))


@pytest.mark.parametrize("known", [100, 200])
def test_imagenet_trains_on_its_first_classes_alone(known, prepared):
    source = open_source(f"imagenet{known}", prepared)
    assert source.natural
    assert source.class_names == tuple(wnids())
    source.check()
    train, test = source.load()
    assert isinstance(train.image, StoredImages)
    wanted = {n: label for n, label in enumerate(TRAINED) if label < known}
    assert train.label.tolist() == list(wanted.values())
    assert train.example_id.tolist() == [
        f"{wnids()[label]}_{n}.JPEG" for n, label in wanted.items()
    ]
    assert_colours(train)
    # All of `validation` is kept, of whatever class.
    assert sorted(test.label.tolist()) == list(range(1000))
    assert test.example_id.tolist() == [
        f"{wnids()[label]}_5000.JPEG" for label in test.label
    ]
    assert_colours(test)
    split = open_set_split(source, "paper", 0)
    assert split.known == tuple(sorted(wnids())[:known])
    assert split.unknown == tuple(sorted(wnids())[known:])
    if known == 200:  # Not all of them have images here.
        return
    train, test = apply_split(source, split, train, test)
    assert sorted(train.label.tolist()) == sorted(wanted.values())
    assert (len(test), test.is_unknown.sum()) == (1000, 900)
    of_known = test.take(~test.is_unknown)
    assert_colours(of_known)  # Class index and label are the same here.
    assert sorted(of_known.label.tolist()) == list(range(known))


def test_the_test_images_are_decoded_once_for_both(prepared):
    for name in ("imagenet100", "imagenet200"):
        open_source(name, prepared).load()
    assert stores_in(Path(prepared.cache_dir)) == [
        f"imagenet100_train_{SIZE}",
        f"imagenet200_train_{SIZE}",
        f"imagenet_validation_{SIZE}",
    ]


TEXTURES = {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(num_classes=47),
}


@pytest.fixture(scope="module")
def long_tailed_once(tmp_path_factory):
    """ImageNet-LT of three classes, and datasets of unknown images."""
    folder = tmp_path_factory.mktemp("long tailed")
    write_tfds(
        folder,
        "imagenet_lt",
        {
            "train": [imagenet_example(label) for label in (999, 0, 0, 500)],
            "test": [imagenet_example(label, 1) for label in (500, 0, 999)],
            "validation": [imagenet_example(3, 2)],
        },
    )
    for name, features in (
        ("textures", TEXTURES),
        ("named", {**TEXTURES, "file_name": tfds.features.Text()}),
        ("plain", {"image": tfds.features.Image()}),
    ):
        examples = {
            split: [
                {
                    "image": encoded(colour_of(label)),
                    "label": 7,
                    "file_name": f"{n}.jpg",
                }
                for n, label in enumerate(labels)
            ]
            for split, labels in (("train", (11, 12, 13)), ("test", (21, 22)))
        }
        for example in (*examples["train"], *examples["test"]):
            for feature in set(example) - set(features):
                del example[feature]
        write_tfds(folder, name, examples, features=features)
    return folder


@pytest.fixture
def long_tailed(long_tailed_once, tmp_path):
    shutil.copytree(long_tailed_once, tmp_path, dirs_exist_ok=True)
    return SourceOptions(
        data_dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        image_size=SIZE,
        unknown_dataset="textures",
    )


def replaced(options, **changes):
    return SourceOptions(**{**vars(options), **changes})


def test_imagenet_lt_needs_a_dataset_of_unknown_images(long_tailed):
    with pytest.raises(PmalError, match=r"--unknown_dataset=NAME or NAME:SPLIT"):
        open_source("imagenet_lt", replaced(long_tailed, unknown_dataset=""))
    for other in ("imagenet100", "digits"):
        with pytest.raises(PmalError, match=r"`unknown_dataset` is for .*imagenet_lt"):
            open_source(other, long_tailed)


@pytest.mark.parametrize(
    ("unknown_dataset", "ids", "colours"),
    [
        ("plain", ["plain/test_0", "plain/test_1"], (21, 22)),
        ("textures:train", [f"textures/train_{n}" for n in range(3)], (11, 12, 13)),
        ("named:test", ["named/0.jpg", "named/1.jpg"], (21, 22)),
    ],
)
def test_imagenet_lt_takes_its_unknown_images_from_that_dataset(
    unknown_dataset, ids, colours, long_tailed
):
    source = open_source(
        "imagenet_lt", replaced(long_tailed, unknown_dataset=unknown_dataset)
    )
    source.check()
    assert source.own_split == (tuple(wnids()), (unknown_dataset,))
    assert (source.own_protocol, source.unknown_is_estimate) == ("paper", False)
    train, test = source.load()
    assert isinstance(test.image, StoredImages)
    assert train.label.tolist() == [999, 0, 0, 500]
    assert_colours(train)
    assert test.label.tolist() == [500, 0, 999, *([1000] * len(ids))]
    assert test.label.dtype == np.int32
    assert source.class_names[1000] == unknown_dataset
    assert test.example_id.tolist() == [
        *(f"{wnids()[label]}_1.JPEG" for label in (500, 0, 999)),
        *ids,
    ]
    assert_colours(LabelledImages(test.image, [500, 0, 999, *colours], None))
    split = open_set_split(source, "paper", 3)
    assert (len(split.known), split.unknown) == (1000, (unknown_dataset,))


def test_both_datasets_of_imagenet_lt_are_looked_for(long_tailed, tmp_path):
    for unprepared, options in (
        ("nosuch", replaced(long_tailed, unknown_dataset="nosuch:test")),
        ("imagenet_lt", replaced(long_tailed, data_dir=str(tmp_path / "textures"))),
    ):
        with pytest.raises(PmalError, match=f"{unprepared!r} is not prepared"):
            open_source("imagenet_lt", options).check()


def test_a_split_that_does_not_exist_is_not_taken_for_a_damaged_copy(long_tailed):
    source = open_source(
        "imagenet_lt", replaced(long_tailed, unknown_dataset="textures:nosuch")
    )
    with pytest.raises(PmalError, match="nosuch") as caught:
        source.load()
    assert "Remove that folder" not in str(caught.value)


def test_the_usual_size_is_224_pixels(long_tailed):
    for image in open_source("imagenet_lt", replaced(long_tailed, image_size=0)).load():
        assert image.image.shape[1:] == (224, 224, 3)


def overwrite(path, share=0.5):
    content = bytearray(path.read_bytes())
    middle = int(share * len(content))
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)


def shard(folder):
    """The last file of test images."""
    return max(folder.glob("*-test.tfrecord-*"))


DAMAGES = {
    "overwritten": lambda folder: overwrite(shard(folder)),
    "cut off": lambda folder: os.truncate(shard(folder), 500),
    "missing": lambda folder: shard(folder).unlink(),
    "no features": lambda folder: (folder / "features.json").unlink(),
    "description cut off": lambda folder: os.truncate(
        folder / "dataset_info.json", 100
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_an_error_that_names_the_folder(
    damage, long_tailed, tmp_path
):
    folder = tmp_path / "imagenet_lt" / "1.0.0"
    DAMAGES[damage](folder)
    with pytest.raises(PmalError, match=f"{folder}' is damaged") as caught:
        open_source("imagenet_lt", long_tailed).load()
    # Another folder for decoded images would not mend it.
    assert "--cache_dir" not in str(caught.value)
    assert stores_in(tmp_path / "cache") in ([], [f"imagenet_lt_train_{SIZE}"])


def test_an_image_that_cannot_be_decoded_is_an_error_that_names_the_folder(
    long_tailed, tmp_path
):
    shutil.rmtree(tmp_path / "textures")
    cut = encoded(colour_of(5))
    cut.truncate(len(cut.getvalue()) - 30)
    examples = [
        {"image": encoded(colour_of(4)), "label": 1},
        {"image": cut, "label": 1},
    ]
    folder = write_tfds(tmp_path, "textures", {"test": examples}, features=TEXTURES)
    with pytest.raises(PmalError, match=f"{folder}' is damaged"):
        open_source("imagenet_lt", long_tailed).load()


def small_examples(prefix, count, classes, **more):
    """Examples whose pixels tell their number."""
    return [
        {
            "id": f"{prefix}{n:05}",
            "image": np.full((32, 32, 3), n, np.uint8),
            "label": (3 * n + 1) % classes,
            **{name: value(n) for name, value in more.items()},
        }
        for n in range(count)
    ]


@pytest.fixture
def svhn(tmp_path):
    # More than the 16 images after which TFDS turns to the next shard on its own.
    splits = {
        split: small_examples(f"{split}_", count, 10)
        for split, count in (("train", 50), ("test", 20), ("extra", 2))
    }
    return write_tfds(tmp_path, "svhn_cropped", splits, version="3.1.0", shards=2)


def test_a_damaged_copy_of_small_images_is_an_error_too(svhn, tmp_path):
    DAMAGES["overwritten"](svhn)
    with pytest.raises(PmalError, match=f"{svhn}' is damaged"):
        open_source("svhn", SourceOptions(data_dir=str(tmp_path))).load()


def test_svhn_has_the_labels_and_names_of_its_images(svhn, tmp_path):
    options = SourceOptions(data_dir=str(tmp_path))
    source = open_source("svhn", options)
    source.check()
    assert source.class_names == tuple("0123456789")
    assert not source.natural
    loaded = zip(("train", "test"), (50, 20), source.load(), strict=True)
    for split, count, images in loaded:
        assert images.image.shape == (count, 32, 32, 3)
        numbers = np.arange(count)
        np.testing.assert_array_equal(images.image[:, 5, 7, 1], numbers)
        np.testing.assert_array_equal(images.label, (3 * numbers + 1) % 10)
        assert images.label.dtype == np.int32
        assert images.example_id.tolist() == [f"{split}_{n:05}" for n in numbers]
    for images in open_source("svhn", replaced(options, image_size=8)).load():
        assert images.image.shape[1] == 8


@pytest.fixture(scope="module")
def cifars(tmp_path_factory):
    """Small CIFAR-10 and CIFAR-100, whose images have the same names."""
    root = tmp_path_factory.mktemp("cifars")
    write_tfds(
        root,
        "cifar10",
        {
            "train": small_examples("train_", 30, 10),
            "test": small_examples("test_", 20, 10),
        },
        version="3.0.2",
    )
    write_tfds(
        root,
        "cifar100",
        {
            "train": small_examples("train_", 1, 100, coarse_label=lambda n: 0),
            # All hundred fine labels twice.
            "test": small_examples("test_", 200, 100, coarse_label=lambda n: n % 20),
        },
        version="3.0.2",
    )
    return SourceOptions(data_dir=str(root))


@pytest.mark.parametrize("name", ["cifar_plus_10", "cifar_plus_50"])
def test_cifar_plus_joins_the_test_images_of_two_datasets(name, cifars):
    source = open_source(name, cifars)
    source.check()
    assert source.natural
    assert len(set(source.class_names)) == 110
    assert source.class_names[:10] == CIFAR10
    assert (source.class_names[10], source.class_names[109]) == ("apple", "worm")
    assert list(source.class_names[10:]) == sorted(source.class_names[10:])
    train, test = source.load()
    assert train.example_id.tolist() == [f"train_{n:05}" for n in range(30)]
    assert train.label.tolist() == [(3 * n + 1) % 10 for n in range(30)]
    assert len(set(test.example_id)) == len(test) == 220
    assert test.example_id[19:21].tolist() == ["test_00019", "cifar100_test_00000"]
    assert test.label.dtype == np.int32
    numbers = np.arange(200)
    np.testing.assert_array_equal(test.label[20:], 10 + (3 * numbers + 1) % 100)
    np.testing.assert_array_equal(test.image[20:, 0, 0, 0], numbers)


@pytest.mark.parametrize("name", ["cifar_plus_10", "cifar_plus_50"])
@pytest.mark.parametrize("protocol", ["paper", "arpl"])
def test_only_listed_classes_of_cifar_100_are_unknown(name, protocol, cifars):
    source = open_source(name, cifars)
    train, test = source.load()
    listed = int(name[-2:])
    fine = source.class_names[10:]
    for trial in range(len(listed_trials(source, protocol))):
        split = open_set_split(source, protocol, trial)
        assert set(split.known) < set(CIFAR10)
        assert len(split.unknown) == listed
        assert set(split.unknown) < set(fine)
        known_train, all_test = apply_split(source, split, train, test)
        assert np.unique(known_train.label).tolist() == list(range(len(split.known)))
        unknown = all_test.take(all_test.is_unknown)
        # Two images of each class of the list, and none of any other.
        names = [fine[(3 * int(i[-5:]) + 1) % 100] for i in unknown.example_id]
        assert sorted(names) == sorted([*split.unknown, *split.unknown])
        assert all(i.startswith("cifar100_test_") for i in unknown.example_id)
        assert len(set(all_test.example_id)) == len(all_test)
        for i, label in zip(all_test.example_id, all_test.label, strict=True):
            if label >= 0:
                of_cifar10 = CIFAR10[(3 * int(i[-5:]) + 1) % 10]
                assert split.known[label] == of_cifar10


def test_both_datasets_of_cifar_plus_are_looked_for(cifars, tmp_path):
    for missing, there in (("cifar100", "cifar10"), ("cifar10", "cifar100")):
        root = tmp_path / there
        root.mkdir()
        (root / there).symlink_to(os.path.join(cifars.data_dir, there))
        source = open_source("cifar_plus_10", SourceOptions(data_dir=str(root)))
        for look in (source.check, source.load):
            with pytest.raises(PmalError, match=f"{missing!r} is not prepared"):
                look()

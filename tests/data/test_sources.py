import re

import numpy as np
import pytest

from pmal_tf.data.images import lowest_of_each_class, proportional_share
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import SOURCES, get_dataset, open_source
from pmal_tf.data.tfds.read import find_prepared, resolve_data_dir
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", SourceOptions()).load()


def test_digits_are_small_colour_images(digits):
    for images in digits:
        assert images.image.shape == (len(images), 8, 8, 3)
        assert images.image.dtype == np.uint8
        assert images.label.dtype == np.int32
        assert not images.is_unknown.any()
        np.testing.assert_array_equal(images.image[..., 0], images.image[..., 1])
        np.testing.assert_array_equal(images.image[..., 0], images.image[..., 2])


def test_digits_are_scaled_from_0_16_to_0_255(digits):
    train, _ = digits
    assert train.example_id[0] == "0"
    # The first row of scikit-learn's first digit is 0 0 5 13 9 1 0 0; 255 / 16 = 15.94.
    assert train.image[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert (train.image.min(), train.image.max()) == (0, 255)


def test_digits_are_split_70_to_30_in_every_class(digits):
    train, test = digits
    assert (len(train), len(test)) == (1257, 540)
    in_train, in_test = (np.bincount(images.label) for images in digits)
    assert (in_train + in_test).tolist() == [
        *(178, 182, 177, 183, 181),
        *(182, 181, 179, 174, 180),
    ]
    assert np.abs(in_test - 0.3 * (in_train + in_test)).max() <= 1


def test_the_digits_split_never_changes(digits):
    _, test = digits
    assert test.example_id[:6].tolist() == ["10", "21", "24", "25", "28", "32"]
    assert test.label[:6].tolist() == [0, 1, 4, 5, 8, 5]
    assert test.example_id[-3:].tolist() == ["1789", "1791", "1794"]
    ids = np.concatenate([images.example_id for images in digits])
    assert sorted(map(int, ids)) == list(range(1797))


def test_digits_need_no_preparation():
    assert "nothing to download" in get_dataset("digits").prepare(SourceOptions())


def at(folder):
    return SourceOptions(data_dir=str(folder))


def test_digits_are_enlarged_where_that_is_asked_for():
    train, test = open_source("digits", SourceOptions(image_size=16)).load()
    assert train.image.shape == (1257, 16, 16, 3)
    assert test.image.dtype == np.uint8
    assert train.image.max() > 200


NAMES = [
    *("digits", "mnist", "svhn", "cifar10", "cifar_plus_10", "cifar_plus_50"),
    *("tiny_imagenet", "imagenet100", "imagenet200", "imagenet_lt", "folder"),
]


def test_datasets_are_listed_by_their_names():
    assert list(SOURCES) == sorted(NAMES)
    assert all(dataset.name == name for name, dataset in SOURCES.items())


@pytest.mark.parametrize(
    ("name", "classes", "natural"),
    [
        ("digits", 10, False),
        ("mnist", 10, False),
        ("svhn", 10, False),
        ("cifar10", 10, True),
        ("cifar_plus_10", 110, True),
        ("cifar_plus_50", 110, True),
        ("tiny_imagenet", 200, True),
        ("imagenet100", 1000, True),
        ("imagenet200", 1000, True),
    ],
)
def test_every_dataset_knows_its_classes_before_it_is_there(name, classes, natural):
    source = open_source(name, SourceOptions())
    assert source.name == name
    assert len(source.class_names) == len(set(source.class_names)) == classes
    assert source.natural is natural


def test_an_unknown_source_is_an_error_that_lists_the_known_ones():
    with pytest.raises(PmalError, match=r"digits, folder, imagenet100.*'imagenet'"):
        open_source("imagenet", SourceOptions())


@pytest.mark.parametrize(
    ("options", "owner"),
    [
        (SourceOptions(held_out_classes=("bird",)), "folder"),
        (SourceOptions(unknown_dataset="svhn"), "imagenet_lt"),
    ],
)
def test_an_option_of_another_dataset_is_an_error_not_passed_over(options, owner):
    with pytest.raises(PmalError, match=f"--dataset={owner} alone.*'cifar10'"):
        open_source("cifar10", options)


@pytest.mark.parametrize(
    ("name", "prepares"),
    [
        *((name, name) for name in ("mnist", "svhn", "cifar10", "tiny_imagenet")),
        # CIFAR-10 is there, so that CIFAR+ lacks CIFAR-100.
        ("cifar_plus_10", "cifar_plus_10"),
        ("cifar_plus_50", "cifar_plus_10"),
        ("imagenet100", "imagenet100"),
        ("imagenet200", "imagenet100"),
    ],
)
def test_a_dataset_that_is_not_prepared_is_an_error_with_the_command(
    name, prepares, tmp_path
):
    if name.startswith("cifar_plus"):
        (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
        (tmp_path / "cifar10" / "3.0.2" / "dataset_info.json").touch()
    command = f"pmal_tf.data.prepare --dataset={prepares} --data_dir={tmp_path}`"
    source = open_source(name, at(tmp_path))
    assert prepares in SOURCES
    with pytest.raises(PmalError, match=re.escape(f"`python -m {command}")):
        source.check()


def test_a_data_folder_that_does_not_exist_is_an_error_and_is_not_made(tmp_path):
    folder = tmp_path / "missing"
    with pytest.raises(PmalError, match=re.escape(str(folder))):
        open_source("mnist", at(folder)).load()
    assert not folder.exists()


@pytest.mark.parametrize(
    "rubbish", ["", "rubbish", '{"name": "mnist", "versi', '{"nosuch": 1}', "{}", "[]"]
)
def test_a_damaged_dataset_info_is_an_error_that_names_the_folder(rubbish, tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(rubbish)
    with pytest.raises(PmalError, match=f"{folder}' is damaged"):
        open_source("mnist", at(tmp_path)).load()


def test_the_newest_prepared_version_is_read(tmp_path):
    for version in ("3.0.9", "3.0.10", "2.11.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    (tmp_path / "mnist" / "4.0.0.incomplete").mkdir()
    assert find_prepared("mnist", str(tmp_path)).name == "3.0.10"


def test_the_data_folder_is_the_argument_then_the_variable_then_the_home(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", "from/variable")
    assert resolve_data_dir("~/argument") == tmp_path / "argument"
    assert resolve_data_dir("").as_posix() == "from/variable"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert resolve_data_dir("") == tmp_path / "tensorflow_datasets"


def test_the_images_of_lowest_rank_are_kept_per_class_in_their_order():
    label = np.array([0, 1, 0, 1, 0, 1, 2], np.int32)
    rank = np.array([5, 1, 3, 9, 4, 2, 7], np.uint64)
    # Class 0 stands at 0, 2, 4 with ranks 5, 3, 4; class 1 at 1, 3, 5 with 1, 9, 2.
    assert lowest_of_each_class(label, rank, 2).tolist() == [1, 2, 4, 5, 6]
    assert lowest_of_each_class(label, rank, 9).tolist() == list(range(7))
    # Of equal ranks the first.
    assert lowest_of_each_class(label, 0 * rank, 1).tolist() == [0, 1, 6]


def shares(label, share, draws=4000):
    generator = np.random.default_rng(0)
    return np.array(
        [
            proportional_share(
                label, generator.permutation(len(label)), share, generator.random()
            )
            for _ in range(draws)
        ]
    )


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_every_image_has_the_same_chance_however_small_its_class(share):
    label = np.repeat([0, 1, 2, 3], [90, 20, 3, 2])
    chosen = shares(label, share)
    # The standard error of each is below 0.007.
    np.testing.assert_allclose(chosen.mean(axis=0), share, atol=0.03)
    for index in range(4):
        count = chosen[:, label == index].sum(axis=1)
        expected = share * (label == index).sum()
        assert count.min() >= np.floor(expected)
        assert count.max() <= np.ceil(expected)


def test_the_lowest_ranks_do_not_count_only_the_order_does():
    label = np.zeros(10, int)
    rank = np.arange(10)[::-1]
    chosen = proportional_share(label, rank, 0.2, 0.5)
    # Cumulated, 0.5 + 0.2 i passes 1 at the third in order and 2 at the eighth.
    assert np.flatnonzero(chosen[::-1]).tolist() == [2, 7]


def test_a_class_keeps_an_image():
    label = np.array([0, 1, 1])
    for start in np.linspace(0.0, 0.99, 50):
        chosen = proportional_share(label, np.arange(3), 0.5, start)
        assert not chosen[0]
        assert chosen[1:].sum() <= 1


def test_no_share_chooses_nothing():
    assert not proportional_share(np.zeros(9, int), np.arange(9), 0.0, 0.99).any()

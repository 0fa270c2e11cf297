import re

import numpy as np
import pytest

from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.sources import SOURCES, get_source
from pmal_tf.data.splits import (
    PROTOCOLS,
    OpenSetSplit,
    apply_split,
    describe_splits,
    make_split,
    number_of_trials,
    open_set_split,
)
from pmal_tf.errors import PmalError

TOY = Source(
    name="toy",
    class_names=("ant", "bee", "cow", "dog"),
    split_list="mnist",
    natural=False,
    load=lambda data_dir: (toy_images([0, 1, 2, 3]), toy_images([0, 1, 2, 3])),
    prepare=lambda data_dir: "nothing to do",
)


def toy_images(labels):
    return LabelledImages(
        image=np.arange(len(labels), dtype=np.uint8).repeat(12).reshape(-1, 2, 2, 3),
        label=np.array(labels, np.int32),
        example_id=np.array([f"toy_{n}" for n in range(len(labels))]),
    )


def every_split():
    return [
        (source, open_set_split(source, protocol, trial))
        for source in SOURCES.values()
        for protocol in PROTOCOLS
        for trial in range(number_of_trials(source))
    ]


def make_openness(known, unknown):
    names = [str(n) for n in range(known + unknown)]
    return OpenSetSplit(
        "any", "any", 0, tuple(names[:known]), tuple(names[known:])
    ).openness


def test_openness_by_hand():
    # 1 - sqrt(12 / 16), 1 - sqrt(8 / 18) = 1 - 2 / 3, 1 - sqrt(8 / 14), 1 - sqrt(1).
    assert make_openness(6, 4) == pytest.approx(0.1340, abs=5e-5)
    assert make_openness(4, 10) == pytest.approx(1 / 3, rel=1e-12)
    assert make_openness(4, 6) == pytest.approx(0.2441, abs=5e-5)
    assert make_openness(3, 0) == 0.0


def test_every_dataset_has_five_trials():
    assert [number_of_trials(source) for source in SOURCES.values()] == [5, 5, 5]


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_classes_of_the_first_digits_trial(dataset):
    neal = open_set_split(get_source(dataset), "neal", 0)
    assert (neal.dataset, neal.protocol, neal.trial) == (dataset, "neal", 0)
    assert neal.known == ("2", "3", "4", "5", "8", "9")
    assert neal.unknown == ("0", "1", "6", "7")


def test_the_classes_of_cifar10_trials():
    source = get_source("cifar10")
    first = open_set_split(source, "neal", 0)
    known = ("airplane", "automobile", "deer", "frog", "horse", "truck")
    assert first.known == known
    assert first.unknown == ("bird", "cat", "dog", "ship")
    assert open_set_split(source, "neal", 1).known == known
    last = open_set_split(source, "neal", 4)
    assert last.known == ("automobile", "bird", "deer", "frog", "horse", "truck")
    assert last.unknown == ("airplane", "cat", "dog", "ship")


def test_paper_is_neal_with_the_sides_swapped():
    for source in SOURCES.values():
        for trial in range(5):
            neal = open_set_split(source, "neal", trial)
            paper = open_set_split(source, "paper", trial)
            assert (paper.known, paper.unknown) == (neal.unknown, neal.known)
            assert (len(paper.known), len(paper.unknown)) == (4, 6)


def test_every_split_covers_all_ten_classes_once():
    for source, split in every_split():
        assert sorted(split.known + split.unknown) == sorted(source.class_names)


def test_class_names_ascend_by_dataset_label_on_both_sides():
    for source, split in every_split():
        for side in (split.known, split.unknown):
            labels = [source.class_names.index(name) for name in side]
            assert labels == sorted(labels)


def test_an_unknown_protocol_is_an_error():
    with pytest.raises(PmalError, match=r"paper, neal.*'arpl'"):
        open_set_split(get_source("mnist"), "arpl", 0)


@pytest.mark.parametrize("trial", [-1, 5])
def test_a_trial_out_of_range_is_an_error_that_names_the_range(trial):
    with pytest.raises(PmalError, match=rf"0\.\.4.*trial={trial}"):
        open_set_split(get_source("mnist"), "neal", trial)


def test_a_name_that_is_no_class_is_an_error():
    with pytest.raises(PmalError, match=r"ant, bee, cow, dog.*\['eel'\]"):
        make_split(TOY, "neal", 0, ["ant", "eel"], ["bee"])
    with pytest.raises(PmalError, match=r"\['eel'\]"):
        make_split(TOY, "neal", 0, ["ant"], ["eel"])


def test_a_class_on_both_sides_is_an_error():
    with pytest.raises(PmalError, match=r"known and unknown.*\['bee'\]"):
        make_split(TOY, "neal", 0, ["ant", "bee"], ["bee", "cow"])


def test_splitting_maps_labels_to_class_indices_in_label_order():
    split = make_split(TOY, "neal", 0, ["dog", "bee"], ["ant"])
    assert split.known == ("bee", "dog")
    train = toy_images([3, 0, 1, 2, 3, 1])
    test = toy_images([2, 0, 3, 1, 0])
    known_train, all_test = apply_split(TOY, split, train, test)
    assert known_train.label.tolist() == [1, 0, 1, 0]
    assert known_train.example_id.tolist() == ["toy_0", "toy_2", "toy_4", "toy_5"]
    # The cow is on neither side, so it is in neither set.
    assert all_test.label.tolist() == [-1, 1, 0, -1]
    assert all_test.example_id.tolist() == ["toy_1", "toy_2", "toy_3", "toy_4"]
    assert all_test.is_unknown.tolist() == [True, False, False, True]
    assert known_train.label.dtype == all_test.label.dtype == np.int32
    np.testing.assert_array_equal(known_train.image, train.image[[0, 2, 4, 5]])
    np.testing.assert_array_equal(all_test.image, test.image[[1, 2, 3, 4]])


def test_a_known_class_without_training_images_is_an_error_that_names_it():
    split = make_split(TOY, "neal", 0, ["ant", "dog"], ["bee"])
    with pytest.raises(PmalError, match=r"training images.*none for dog"):
        apply_split(TOY, split, toy_images([0, 1, 2]), toy_images([0, 1, 2, 3]))


def test_a_known_class_without_test_images_is_an_error_that_names_it():
    split = make_split(TOY, "neal", 0, ["ant", "dog"], ["bee"])
    with pytest.raises(PmalError, match=r"test images.*none for ant"):
        apply_split(TOY, split, toy_images([0, 1, 2, 3]), toy_images([1, 2, 3]))


def test_unknown_classes_without_test_images_are_an_error_that_names_them():
    split = make_split(TOY, "neal", 0, ["ant", "dog"], ["bee", "cow"])
    with pytest.raises(PmalError, match=r"unknown classes.*none for bee, cow"):
        apply_split(TOY, split, toy_images([0, 1, 2, 3]), toy_images([0, 3]))


def test_the_description_of_digits_names_classes_and_counts():
    text = describe_splits("digits", "paper", None)
    source = get_source("digits")
    train, test = source.load(None)
    first = text.splitlines()[:4]
    known = [0, 1, 6, 7]
    counts = [
        np.isin(train.label, known).sum(),
        np.isin(test.label, known).sum(),
        (~np.isin(test.label, known)).sum(),
    ]
    assert first == [
        "digits paper trial 0: openness 0.2441",
        "  known:   0, 1, 6, 7",
        "  unknown: 2, 3, 4, 5, 8, 9",
        f"  images:  {counts[0]} training, {counts[1]} known test, "
        f"{counts[2]} unknown test",
    ]
    assert len(text.splitlines()) == 5 * 4


@pytest.mark.parametrize(
    ("dataset", "images", "id_pattern", "counts"),
    [
        ("mnist", 60_000, "train_0", (35_152, 5_899, 4_101)),
        ("cifar10", 50_000, r"train_\d{5}", (30_000, 6_000, 4_000)),
    ],
)
def test_image_counts_of_the_first_neal_trial(
    dataset, images, id_pattern, counts, tfds_data_dir
):
    source = get_source(dataset)
    train, test = source.load(str(tfds_data_dir))
    assert (len(train), len(test)) == (images, 10_000)
    assert re.fullmatch(id_pattern, train.example_id[0])
    assert len({*train.example_id, *test.example_id}) == images + 10_000
    split = open_set_split(source, "neal", 0)
    known_train, all_test = apply_split(source, split, train, test)
    unknown = int(all_test.is_unknown.sum())
    assert (len(known_train), len(all_test) - unknown, unknown) == counts
    assert known_train.image.shape == (counts[0], 32, 32, 3)
    assert known_train.image.dtype == np.uint8
    assert np.unique(known_train.label).tolist() == list(range(6))
    assert np.unique(all_test.label).tolist() == list(range(-1, 6))

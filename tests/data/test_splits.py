import functools

import numpy as np
import pytest

from pmal_tf.data.class_lists import protocols_of
from pmal_tf.data.datasets import small_images
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import DataSettings, SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.data.splits import (
    OpenSetSplit,
    apply_split,
    describe_splits,
    hold_out_classes,
    images_of_held_out,
    listed_trials,
    make_split,
    open_set_split,
    trials_of_equal_classes,
)
from pmal_tf.data.tfds.read import load_split
from pmal_tf.runtime.errors import PmalError

TOY = Source(
    name="toy",
    class_names=("ant", "bee", "cow", "dog"),
    natural=False,
    load=lambda: (toy_images([0, 1, 2, 3]), toy_images([0, 1, 2, 3])),
    own_split=(("ant", "dog"), ("bee",)),
    own_protocol="own",
)

PUBLISHED = [
    *("digits", "mnist", "svhn", "cifar10", "cifar_plus_10", "cifar_plus_50"),
    *("tiny_imagenet", "imagenet100", "imagenet200"),
]


def opened(name, **options):
    return open_source(name, SourceOptions(**options))


def toy_images(labels):
    return LabelledImages(
        image=np.arange(len(labels), dtype=np.uint8).repeat(12).reshape(-1, 2, 2, 3),
        label=np.array(labels, np.int32),
        example_id=np.array([f"toy_{n}" for n in range(len(labels))]),
    )


def every_split():
    return [
        (source, open_set_split(source, protocol, trial))
        for source in map(opened, PUBLISHED)
        for protocol in protocols_of(source.name)
        for trial in range(len(listed_trials(source, protocol)))
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


def test_which_protocols_and_how_many_trials_a_dataset_has():
    assert set(PUBLISHED) == set(SOURCES) - {"imagenet_lt", "folder"}
    for name in PUBLISHED:
        protocols = protocols_of(name)
        other = "neal" if name in ("digits", "mnist", "svhn", "cifar10") else "arpl"
        if name.startswith("imagenet"):
            assert protocols == ("paper",)
        else:
            assert protocols == ("paper", other)
        trials = 1 if name.startswith("imagenet") else 5
        for protocol in protocols:
            assert len(listed_trials(opened(name), protocol)) == trials


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_classes_of_the_first_digits_trial(dataset):
    neal = open_set_split(opened(dataset), "neal", 0)
    assert (neal.dataset, neal.protocol, neal.trial) == (dataset, "neal", 0)
    assert neal.known == ("2", "3", "4", "5", "8", "9")
    assert neal.unknown == ("0", "1", "6", "7")


def test_the_classes_of_cifar10_trials():
    source = opened("cifar10")
    first = open_set_split(source, "neal", 0)
    known = ("airplane", "automobile", "deer", "frog", "horse", "truck")
    assert first.known == known
    assert first.unknown == ("bird", "cat", "dog", "ship")
    assert open_set_split(source, "neal", 1).known == known
    last = open_set_split(source, "neal", 4)
    assert last.known == ("automobile", "bird", "deer", "frog", "horse", "truck")
    assert last.unknown == ("airplane", "cat", "dog", "ship")


@pytest.mark.parametrize("name", ["digits", "mnist", "svhn", "cifar10"])
def test_paper_is_neal_with_the_sides_swapped(name):
    source = opened(name)
    for trial in range(5):
        neal = open_set_split(source, "neal", trial)
        paper = open_set_split(source, "paper", trial)
        assert (paper.known, paper.unknown) == (neal.unknown, neal.known)
        assert (len(paper.known), len(paper.unknown)) == (4, 6)


def test_every_split_names_each_class_once_by_ascending_label():
    for source, split in every_split():
        both = split.known + split.unknown
        assert len(set(both)) == len(both)
        assert set(both) <= set(source.class_names)
        if not source.name.startswith("cifar_plus"):
            assert set(both) == set(source.class_names)
        for side in (split.known, split.unknown):
            assert sorted(side, key=source.class_names.index) == list(side)


VEHICLES = ("airplane", "automobile", "ship", "truck")


@pytest.mark.parametrize(
    ("dataset", "unknown"), [("cifar_plus_10", 10), ("cifar_plus_50", 50)]
)
def test_cifar_plus_of_the_paper_has_vehicles_known_and_animals_unknown(
    dataset, unknown
):
    source = opened(dataset)
    animals = open_set_split(opened("cifar_plus_50"), "paper", 0).unknown
    things = {"apple", "bottle", "bus", "castle", "rocket", "sea", "rose", "bicycle"}
    assert len(animals) == 50
    assert not things & set(animals)
    assert {"bear", "woman", "worm", "crab", "wolf"} <= set(animals)
    drawn = set()
    for trial in range(5):
        split = open_set_split(source, "paper", trial)
        assert split.known == VEHICLES
        assert len(split.unknown) == unknown
        assert set(split.unknown) <= set(animals)
        drawn.add(split.unknown)
    assert len(drawn) == (5 if unknown == 10 else 1)


def test_cifar_plus_of_arpl_has_animals_known_but_for_the_last_trial():
    source = opened("cifar_plus_10")
    known = [open_set_split(source, "arpl", trial).known for trial in range(5)]
    assert known[0] == ("automobile", "deer", "horse", "truck")
    assert known[1] == known[2] == ("automobile", "frog", "horse", "truck")
    assert known[4] == VEHICLES
    # Entry 0 of ARPL's +10 list: 30, 25, 1, 9, 8, 0, 46, 52, 49, 71.
    assert open_set_split(source, "arpl", 0).unknown == (
        *("apple", "aquarium_fish", "bicycle", "bottle", "couch", "dolphin"),
        *("man", "mountain", "oak_tree", "sea"),
    )


def test_tiny_imagenet_has_twenty_known_classes_by_wnid():
    source = opened("tiny_imagenet")
    split = open_set_split(source, "paper", 0)
    assert (len(split.known), len(split.unknown)) == (20, 180)
    # Entry 0 of ARPL's list begins with 108, 147, 17 of the sorted wnids.
    assert {"n03447447", "n04179913", "n01950731"} <= set(split.known)
    again = open_set_split(source, "arpl", 0)
    assert (again.known, again.unknown) == (split.known, split.unknown)


@pytest.mark.parametrize("count", [100, 200])
def test_the_first_synsets_by_wnid_are_known_in_imagenet(count):
    source = opened(f"imagenet{count}")
    split = open_set_split(source, "paper", 0)
    assert split.known == source.class_names[:count]
    assert list(split.known) == sorted(split.known)
    assert split.known[0] == "n01440764"
    assert len(split.unknown) == 1000 - count


def test_trials_of_equal_classes_are_found():
    def groups(name, protocol):
        source = opened(name)
        splits = [open_set_split(source, protocol, trial) for trial in range(5)]
        return trials_of_equal_classes((s.trial, s.known) for s in splits)

    assert groups("cifar10", "neal") == [[0, 1]]
    assert groups("svhn", "neal") == [[0, 1]]
    assert groups("mnist", "neal") == []
    assert groups("cifar_plus_10", "arpl") == [[1, 2]]
    assert groups("cifar_plus_50", "paper") == [[0, 1, 2, 3, 4]]


def test_a_dataset_of_one_split_has_as_many_trials_as_wanted():
    source = opened("imagenet100")
    first, later = (open_set_split(source, "paper", trial) for trial in (0, 7))
    assert later.trial == 7
    assert (first.known, first.unknown) == (later.known, later.unknown)
    assert open_set_split(TOY, "paper", 3).known == ("ant", "dog")


def test_a_split_of_its_own_has_its_own_protocol():
    assert open_set_split(TOY, "paper", 0).protocol == "own"
    with pytest.raises(PmalError, match=r"--protocol at its default.*'neal'"):
        open_set_split(TOY, "neal", 0)


def test_known_classes_may_be_chosen():
    split = open_set_split(opened("cifar10"), "paper", 2, ["ship", "airplane"])
    assert split.protocol == "custom"
    assert split.known == ("airplane", "ship")
    assert len(split.unknown) == 8
    assert set(split.known) | set(split.unknown) == set(opened("cifar10").class_names)


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        (["ant", "eel"], ["bee"], r"'ant', 'bee', 'cow', 'dog'.*'eel'"),
        (["ant"], ["eel"], "may name only its classes.*'eel'"),
        (["ant", "bee"], ["bee", "cow"], "only once.*'bee'"),
        (["ant", "ant"], ["bee"], "only once.*'ant'"),
        (["ant"], ["bee"], "At least two classes must be known"),
    ],
)
def test_sides_that_cannot_be_are_an_error(known, unknown, message):
    with pytest.raises(PmalError, match=message):
        make_split(TOY, "neal", 0, known, unknown)
    with pytest.raises(PmalError, match="'boat'"):
        open_set_split(opened("cifar10"), "paper", 0, ["ship", "boat"])


def test_an_unknown_protocol_is_an_error():
    with pytest.raises(PmalError, match=r"paper, neal.*'arpl'"):
        open_set_split(opened("mnist"), "arpl", 0)


@pytest.mark.parametrize("trial", [-1, 5])
def test_a_trial_out_of_range_is_an_error_that_names_the_range(trial):
    with pytest.raises(PmalError, match=rf"0\.\.4.*trial={trial}"):
        open_set_split(opened("mnist"), "neal", trial)


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


def test_a_known_class_without_test_images_is_told(caplog):
    split = make_split(TOY, "neal", 0, ["ant", "dog"], ["bee"])
    apply_split(TOY, split, toy_images([0, 1, 2, 3]), toy_images([1, 2, 3]))
    assert "No test images of ant" in caplog.text


@pytest.mark.parametrize(
    ("trained", "tested", "message"),
    [
        ([0, 1, 2], [0, 1, 2, 3], r"training images.*none for dog"),
        ([0, 1, 2, 3], [1, 2], "known classes of toy need test images"),
        ([0, 1, 2, 3], [0, 3], r"unknown classes.*none for bee, cow"),
    ],
)
def test_classes_without_images_are_an_error(trained, tested, message):
    split = make_split(TOY, "neal", 0, ["ant", "dog"], ["bee", "cow"])
    with pytest.raises(PmalError, match=message):
        apply_split(TOY, split, toy_images(trained), toy_images(tested))


def test_no_class_need_be_unknown():
    split = make_split(TOY, "neal", 0, ["ant", "dog"], [])
    _, test = apply_split(TOY, split, toy_images([0, 1, 2, 3]), toy_images([0, 1, 3]))
    assert test.label.tolist() == [0, 1]


def test_the_description_of_digits_names_classes_and_counts():
    text = describe_splits(DataSettings())
    source = opened("digits")
    train, test = source.load()
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


@pytest.fixture(scope="module")
def read_once(tfds_data_dir):
    """The folder of real datasets, of which each split is read once for all tests."""
    # Counts and names do not need the pixels.
    values = {"data_dir": str(tfds_data_dir), "image_size": 1}
    options = SourceOptions(**values)
    read = functools.cache(functools.partial(load_split, options=options))

    def once(name, split, _, *, id_feature):
        return read(name, split, id_feature=id_feature)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_images, "load_split", once)
        yield values


MNIST = ["35,152", "35,721", "35,121", "35,433", "35,649"]
MNIST_KNOWN = ["5,899", "5,971", "5,848", "5,866", "5,965"]
MNIST_UNKNOWN = ["4,101", "4,029", "4,152", "4,134", "4,035"]


@pytest.mark.parametrize(
    ("dataset", "protocol", "training", "known", "unknown"),
    [
        ("mnist", "neal", MNIST, MNIST_KNOWN, MNIST_UNKNOWN),
        ("cifar10", "neal", ["30,000"] * 5, ["6,000"] * 5, ["4,000"] * 5),
        ("cifar_plus_10", "paper", ["20,000"] * 5, ["4,000"] * 5, ["1,000"] * 5),
        ("cifar_plus_50", "arpl", ["20,000"] * 5, ["4,000"] * 5, ["5,000"] * 5),
    ],
)
def test_counts_of_every_trial_are_those_of_the_field(
    dataset, protocol, training, known, unknown, read_once
):
    settings = DataSettings(dataset=dataset, protocol=protocol, **read_once)
    text = describe_splits(settings)
    lines = [line.strip() for line in text.splitlines() if "images:" in line]
    assert lines == [
        f"images:  {a} training, {b} known test, {c} unknown test"
        for a, b, c in zip(training, known, unknown, strict=True)
    ]


def test_ids_of_mnist_are_numbers_in_stored_order(read_once):
    train, test = opened("mnist", **read_once).load()
    assert train.example_id.tolist() == [f"train_{n}" for n in range(60_000)]
    assert test.example_id.tolist() == [f"test_{n}" for n in range(10_000)]


def test_ids_of_both_cifars_are_unique(read_once):
    source = opened("cifar_plus_10", **read_once)
    train, test = source.load()
    ids = [*train.example_id, *test.example_id]
    assert len(set(ids)) == len(ids) == 50_000 + 10_000 + 10_000
    assert "cifar100_test_00000" in ids
    assert "test_00000" in ids
    # A bear of CIFAR-100 is one by name, not by a label of CIFAR-10.
    assert source.class_names[10 + 3] == "bear"
    assert (test.label == 10 + 3).sum() == 100


# Classes held out of the known ones, to tune on.


@pytest.fixture(scope="module")
def digits():
    return opened("digits")


@pytest.mark.parametrize(("count", "held_out"), [(3, 1), (4, 1), (6, 2), (20, 6)])
def test_a_third_of_the_known_classes_plays_the_unknown(count, held_out):
    names = tuple(map(str, range(count)))
    split = OpenSetSplit("any", "neal", 0, names, ("never",))
    narrowed = hold_out_classes(split, seed=5)
    assert len(narrowed.unknown) == held_out
    assert set(narrowed.known) | set(narrowed.unknown) == set(names)
    assert list(narrowed.known) == sorted(narrowed.known, key=int)
    assert narrowed.protocol == "neal_tuning"
    assert narrowed == hold_out_classes(split, seed=5)
    others = {hold_out_classes(split, seed=s).unknown for s in range(20)}
    assert len(others) > 1


def test_two_known_classes_are_too_few_to_hold_one_out():
    split = OpenSetSplit("any", "neal", 0, ("cat", "dog"), ())
    with pytest.raises(PmalError, match=r"needs at least 3.*Received: cat, dog"):
        hold_out_classes(split, seed=0)


def test_images_to_tune_on_are_training_images_and_never_both(digits):
    split = hold_out_classes(open_set_split(digits, "neal", 0), seed=1)
    train, test = digits.load()
    learnt, judged = images_of_held_out(digits, split, train, seed=2)
    assert not set(learnt.example_id) & set(judged.example_id)
    everything = set(learnt.example_id) | set(judged.example_id)
    assert everything <= set(train.example_id)
    assert not everything & set(test.example_id)
    original = dict(zip(train.example_id, train.label, strict=True))
    classes = {str(original[name]) for name in learnt.example_id}
    assert classes == set(split.known)
    unknown = judged.example_id[judged.is_unknown]
    assert {str(original[name]) for name in unknown} == set(split.unknown)
    # All images of the classes that are held out; a fifth of each other one.
    assert len(unknown) == np.isin(train.label, list(map(int, split.unknown))).sum()
    for index, name in enumerate(split.known):
        total = (train.label == int(name)).sum()
        assert (judged.label == index).sum() == pytest.approx(total / 5, abs=1)

"""Classes held out of the known ones: nothing of the test is looked at."""

import numpy as np
import pytest

from pmal_tf.data.held_out import hold_out_classes, images_of_held_out
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import OpenSetSplit, open_set_split
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", SourceOptions())


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

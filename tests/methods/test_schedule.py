"""Which prototypes pass in which step: by hand, and dealt to replicas."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.methods.pmal.prototypes import PrototypeSchedule

# Class 0 has three prototypes, class 1 one, class 2 two.
MASK = np.array([[True, True, True], [True, False, False], [True, True, False]])
# All first prototypes, then all second ones, then the third.
IN_TURN = [0, 3, 6, 1, 7, 2]


def chosen(feed, steps):
    choose = feed.chooser(MASK)
    numbers = range(steps * feed.local)
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
    alone = chosen(PrototypeSchedule(size=size), 3)
    first = chosen(PrototypeSchedule(size=size, replicas=3, first=0, local=2), 3)
    second = chosen(PrototypeSchedule(size=size, replicas=3, first=2, local=1), 3)
    for step in range(3):
        parts = [*first[2 * step : 2 * step + 2], second[step]]
        assert [len(part) for part in parts] in ([2, 2, 2], [2, 1, 1])
        assert sorted(np.concatenate(parts)) == sorted(alone[step])

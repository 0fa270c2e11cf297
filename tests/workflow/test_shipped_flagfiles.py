"""What every flagfile that ships must come to, whatever it includes."""

from pathlib import Path

import pytest
from absl import flags

from pmal_tf import tune
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import open_set_split
from pmal_tf.methods.pmal.prototypes import PrototypeSchedule

FOLDER = Path(__file__).parents[2] / "experiments"
FLAGFILES = sorted(FOLDER.rglob("*.flags"))
# Reduced networks may have less than their own: OSCRI's costs small ones accuracy.
DROPOUT = {"oscri": {0.0, 0.2}}
# Of datasets that cannot be opened without the user's images.
CLASSES = {"folder": 4, "imagenet_lt": 1000}


@pytest.fixture(params=FLAGFILES, ids=lambda p: p.relative_to(FOLDER).as_posix())
def config(request, parse):
    # A sweep's flagfiles have flags of their own; absl's FLAGS is one per process.
    if "vary" not in flags.FLAGS:
        tune.define_flags()
    return parse(f"--flagfile={request.param}")


def prototypes_in_a_step(config):
    known = CLASSES.get(config.dataset)
    if known is None:
        source = open_source(config.dataset, config.data)
        known = len(open_set_split(source, config.protocol, 0).known)
    count = known * config.prototypes_per_class
    schedule = PrototypeSchedule.of_mode(
        config.prototype_mode, config.prototype_every, config.prototype_slice
    )
    return count if schedule.size is None else min(count, schedule.size)


def test_a_network_has_the_dropout_of_its_authors(config):
    assert config.dropout in DROPOUT.get(config.backbone, {0.0})
    if config.width == 1:
        assert config.dropout == (0.2 if config.backbone == "oscri" else 0)


def test_prototypes_do_not_crowd_a_step(config):
    # The most that the paper's small images need, TinyImageNet's.
    assert prototypes_in_a_step(config) <= 200


def test_large_images_are_cropped_at_random_and_small_ones_shifted(config):
    # common_imagenet.flags names no dataset.
    if config.dataset.startswith("imagenet") or config.backbone == "resnet50":
        assert (config.crop, config.augment) == ("random_resized", "auto")
        assert (config.backbone, config.prototype_mode) == ("resnet50", "bank")
    else:
        assert config.crop == "shift"

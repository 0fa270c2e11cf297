"""The command line of a sweep, and the sweeps that ship."""

from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

from pmal_tf import tune
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.flags import parse_arguments

FOLDER = Path(__file__).parents[3] / "experiments" / "tune"


@pytest.fixture
def sweep_of(defined_flags):
    # absl's FLAGS is one per process.
    if "vary" not in flags.FLAGS:
        tune.define_flags()

    def parse(*arguments):
        was_parsed = flags.FLAGS.is_parsed()
        with flagsaver.flagsaver():
            parse_arguments(["program", *arguments])
            sweep = tune._sweep_from_flags()
        if not was_parsed:
            flags.FLAGS.unparse_flags()
        return sweep

    return parse


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.flags")), ids=lambda p: p.stem)
def test_sweeps_that_ship_are_valid(sweep_of, path):
    sweep = sweep_of(f"--flagfile={path}")
    assert sweep.config.experiment == path.stem
    assert not sweep.config_of({}).compared


def test_the_sweep_of_digits_is_a_grid_of_nine(sweep_of):
    sweep = sweep_of(f"--flagfile={FOLDER / 'digits.flags'}")
    assert sweep.tuner == "grid"
    assert [str(parameter) for parameter in sweep.space] == [
        "prototypes_per_class=1,5,10",
        "epsilon=0.3,0.7,0.9",
    ]


def test_without_settings_to_vary_it_is_table_5(sweep_of):
    sweep = sweep_of("--dataset=digits", "--objective=mls")
    assert (sweep.tuner, sweep.rule, len(sweep.space)) == ("axes", "mls", 5)


def test_a_sweep_is_not_overwritten(sweep_of):
    with pytest.raises(PmalError, match=r"goes on from what there is.*--overwrite"):
        sweep_of("--overwrite")

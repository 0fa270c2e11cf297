"""Sweeps hyper-parameters: `python -m pmal_tf.tune --flagfile=experiments/tune/...`."""

from __future__ import annotations

import sys

from absl import app, flags, logging

from pmal_tf import config as settings
from pmal_tf.errors import PmalError, first_line, is_disk_full
from pmal_tf.interruption import Interrupted, leave_on_signals
from pmal_tf.quiet import plain_messages
from pmal_tf.tuning.space import TABLE_5, parse_space
from pmal_tf.tuning.sweep import Sweep

_TUNERS = ("axes", "grid", "random", "bayesian", "hyperband")


def define_flags() -> None:
    """Defines the flags that a sweep has beside those of a run."""
    flags.DEFINE_multi_string(
        "vary",
        list(TABLE_5),
        "A setting to vary: NAME=VALUE,VALUE,... or, for random and bayesian, "
        "NAME=LOW..HIGH. Given several times; by default Table 5's.",
    )
    flags.DEFINE_enum(
        "tuner",
        "axes",
        _TUNERS,
        "Which points are visited: axes varies one setting at a time around the "
        "others, as Table 5 does; hyperband gives most points few epochs.",
    )
    flags.DEFINE_enum(
        "objective", "dr", ["dr", "pr", "mls"], "Rule whose AUROC is maximised."
    )
    flags.DEFINE_integer(
        "max_points",
        20,
        "Points of a random or Bayesian sweep.",
        lower_bound=1,
    )


def main(argv: list[str]) -> None:
    """Runs the sweep that the flags ask for, and prints its table.

    Args:
        argv: What is left of the command line: the program's name.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    leave_on_signals()
    plain_messages()
    logging.set_verbosity(logging.INFO)
    try:
        sweep = _sweep_from_flags()
        from pmal_tf.tuning.search import run_sweep

        table = run_sweep(sweep)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        sys.exit(stop.exit_status)
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(
            f"Error: The disk must have room for the sweep. Received: "
            f"{first_line(error)}. Finished points are kept: make room, and the same "
            "command goes on from there."
        )
    if table:
        sys.stdout.write(f"\n{table}\nResults: {sweep.folder}\n")


def _sweep_from_flags() -> Sweep:
    """Reads the flags.

    Raises:
        PmalError: If a value is not allowed.
    """
    values, config = flags.FLAGS, settings.config_from_flags()
    if config.overwrite:
        raise PmalError(
            "A sweep goes on from what there is. Received: --overwrite. To begin anew, "
            "name another --experiment, or remove the folder that the sweep names."
        )
    return Sweep(
        config=config,
        space=parse_space(values.vary),
        tuner=values.tuner,
        rule=values.objective,
        max_points=values.max_points,
    )


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; what cannot be parsed ends the program."""
    try:
        return settings.parse_arguments(argv)
    except (PmalError, flags.Error) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    settings.define_flags()
    define_flags()
    flags.adopt_module_key_flags(settings)
    app.run(main, flags_parser=_parse)

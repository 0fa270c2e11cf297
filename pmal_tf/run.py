"""Runs an experiment: `python -m pmal_tf.run --flagfile=experiments/digits.flags`."""

from __future__ import annotations

import sys

from absl import app, flags, logging

from pmal_tf import config as settings
from pmal_tf.errors import PmalError, first_line, is_disk_full
from pmal_tf.interruption import Interrupted, leave_on_signals
from pmal_tf.quiet import plain_messages


def main(argv: list[str]) -> None:
    """Runs every stage of every trial that the flags ask for, and prints the result.

    Args:
        argv: What is left of the command line: the program's name.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    leave_on_signals()
    plain_messages()
    logging.set_verbosity(logging.INFO)
    try:
        config = settings.config_from_flags()
        # TensorFlow takes seconds to import; a mistake in the flags is told before.
        from pmal_tf.experiment import run_experiment

        table = run_experiment(config)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        sys.exit(stop.exit_status)
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(
            f"Error: The disk must have room for the run. Received: {first_line(error)}"
            ". Finished stages and checkpoints are kept: make room, and the same "
            "command goes on from there."
        )
    if table:
        sys.stdout.write(f"\n{table}")


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; what cannot be parsed ends the program."""
    try:
        return settings.parse_arguments(argv)
    except (PmalError, flags.Error) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    settings.define_flags()
    flags.adopt_module_key_flags(settings)
    app.run(main, flags_parser=_parse)

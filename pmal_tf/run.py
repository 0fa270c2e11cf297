"""Runs an experiment: `python -m pmal_tf.run --flagfile=experiments/digits.flags`."""

from __future__ import annotations

from absl import app, flags

from pmal_tf.workflow import flags as settings
from pmal_tf.workflow.command import parse_or_exit, run_command


def main(argv: list[str]) -> None:
    """Runs every stage of every trial that the flags ask for, and prints the result."""
    run_command(argv, _work, kept="Finished stages and checkpoints")


def _work() -> str:
    """Reads the flags and runs the experiment; returns its table."""
    config = settings.config_from_flags()
    # TensorFlow takes seconds to import; a mistake in the flags is reported before.
    from pmal_tf.workflow.experiment import run_experiment

    return run_experiment(config)


if __name__ == "__main__":
    settings.define_flags()
    flags.adopt_module_key_flags(settings)
    app.run(main, flags_parser=parse_or_exit)

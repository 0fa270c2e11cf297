"""What the long commands, a run and a sweep, have in common: how they begin and end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app, flags, logging

from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError, first_line, is_disk_full
from pmal_tf.runtime.signals import Interrupted, leave_on_signals
from pmal_tf.workflow.flags import parse_arguments, short_help


def run_command(argv: list[str], work: Callable[[], str], *, kept: str) -> None:
    """Does the work of a command and prints what comes of it.

    A mistake of the user ends the program with a sentence and status 1, a signal with
    the status that shells expect.

    Args:
        argv: What is left of the command line: the program's name.
        work: Reads the flags, works, and returns what to print, or an empty string.
        kept: What is kept where the disk is full, e.g. `Finished stages`.
    """
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    leave_on_signals()
    plain_messages()
    logging.set_verbosity(logging.INFO)
    try:
        text = work()
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
            f". {kept} are kept: make room, and the same command goes on from there."
        )
    if text:
        sys.stdout.write(f"\n{text}")


def parse_or_exit(argv: list[str]) -> list[str]:
    """Parses the command line as `parse_arguments` does, or ends the program."""
    if {"--help", "-help", "-h", "--h"} & set(argv[1:]):
        sys.stdout.write(f"{short_help()}\n")
        sys.exit(0)
    try:
        return parse_arguments(argv)
    except (PmalError, flags.Error) as error:
        sys.exit(f"Error: {error}")

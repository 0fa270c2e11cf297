"""What `python -m pmal_tf.run` says where a run cannot go on."""

import errno
import logging as standard_logging
import signal

import pytest
from absl import app, flags, logging
from absl.testing import flagsaver

from pmal_tf import run
from pmal_tf.runtime.signals import Interrupted
from pmal_tf.workflow import experiment
from pmal_tf.workflow.command import parse_or_exit


@pytest.fixture
def command(defined_flags):
    """Runs the command in this process, and leaves that as it was."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    verbosity, formatter = logging.get_verbosity(), logging.get_absl_handler().formatter
    level = standard_logging.getLogger("tensorflow").level
    was_parsed = flags.FLAGS.is_parsed()

    def main(*arguments):
        with flagsaver.flagsaver():
            run.main(parse_or_exit(["run", *arguments]))

    yield main
    if not was_parsed:
        flags.FLAGS.unparse_flags()
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    logging.set_verbosity(verbosity)
    logging.get_absl_handler().setFormatter(formatter)
    standard_logging.getLogger("tensorflow").setLevel(level)


@pytest.fixture
def ending(monkeypatch, command):
    """Runs a command whose experiment raises; returns what it ends with."""

    def end(error, kind=SystemExit):
        def raises(config):
            raise error

        monkeypatch.setattr(experiment, "run_experiment", raises)
        with pytest.raises(kind) as caught:
            command()
        return caught.value

    return end


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/x/step_1.npz"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "runs/x/step_1.npz"),
        OSError("Can't write data (errno = 28, 'No space left on device')"),
        RuntimeError("events.out; No space left on device"),
    ],
)
def test_full_disk_is_a_sentence(ending, error):
    message = ending(error).code
    assert message.startswith("Error: The disk must have room for the run. Received:")
    assert str(error).splitlines()[0] in message
    assert "the same command goes on from there" in message


def test_signal_ends_with_its_status_and_no_traceback(ending, capsys):
    assert ending(Interrupted(signal.SIGTERM, "All is kept.")).code == 143
    assert "Stopped by SIGTERM. All is kept." in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("a bug")])
def test_other_errors_keep_their_traceback(ending, error):
    assert ending(error, type(error)) is error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset=cifar11"], "`dataset` must be one of cifar10"),
        (["--datset=mnist"], "Unknown command line flag 'datset'"),
        (["--protocol=arpl2"], "`protocol` must be one of"),
        (
            ["--trials=0,x"],
            "`trials` must list, separated by commas, values of type int",
        ),
        (["--epsilon=0"], "`epsilon` must lie in (0, 1]"),
        (["--prototypes_per_class=0"], "`prototypes_per_class` must lie in"),
        (["--num_models=1"], "`num_models` must lie in [2, inf)"),
        (["--flagfile=absent.flags"], "`--flagfile` must name a readable file"),
        (["--dataset=mnist", "--data_dir=."], "pmal_tf.data.prepare --dataset=mnist"),
    ],
)
def test_mistakes_on_the_command_line_are_sentences(
    command, tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    # Python prints what is no number, and leaves with status 1.
    assert caught.value.code.startswith("Error: ")
    assert sentence in caught.value.code
    assert not list(tmp_path.iterdir())


def test_arguments_that_are_no_flags_are_a_usage_error(command):
    with pytest.raises(app.UsageError, match="Unexpected arguments: train"):
        command("train")


def test_help_is_what_matters_most(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command("--help")
    assert caught.value.code == 0
    assert "--method [pmal]" in capsys.readouterr().out

"""What `python -m pmal_tf.run` says where a run cannot go on."""

import errno
import logging as standard_logging
import signal

import pytest
from absl import logging

from pmal_tf import run
from pmal_tf.runtime.signals import Interrupted
from pmal_tf.workflow import experiment
from pmal_tf.workflow.config import Config


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """A command changes signal handlers and the log of its process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    verbosity, formatter = logging.get_verbosity(), logging.get_absl_handler().formatter
    level = standard_logging.getLogger("tensorflow").level
    monkeypatch.setattr(run.settings, "config_from_flags", Config)
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    logging.set_verbosity(verbosity)
    logging.get_absl_handler().setFormatter(formatter)
    standard_logging.getLogger("tensorflow").setLevel(level)


def ending(monkeypatch, error):
    """Runs a command whose experiment raises; returns what it ends with."""

    def raises(config):
        raise error

    monkeypatch.setattr(experiment, "run_experiment", raises)
    with pytest.raises(SystemExit) as caught:
        run.main(["run"])
    return caught.value.code


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "runs/x/step_1.npz"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "runs/x/step_1.npz"),
        OSError("Can't write data (errno = 28, 'No space left on device')"),
        RuntimeError("events.out; No space left on device"),
    ],
)
def test_full_disk_is_a_sentence(monkeypatch, error):
    message = ending(monkeypatch, error)
    assert message.startswith("Error: The disk must have room for the run. Received:")
    assert str(error).splitlines()[0] in message
    assert "the same command goes on from there" in message


def test_signal_ends_with_its_status_and_no_traceback(monkeypatch, capsys):
    assert ending(monkeypatch, Interrupted(signal.SIGTERM, "All is kept.")) == 143
    assert "Stopped by SIGTERM. All is kept." in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("a bug")])
def test_other_errors_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(
        experiment, "run_experiment", lambda config: (_ for _ in ()).throw(error)
    )
    with pytest.raises(type(error)):
        run.main(["run"])

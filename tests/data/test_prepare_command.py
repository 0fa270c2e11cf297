import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest
from absl import flags

from pmal_tf.data import prepare
from pmal_tf.data.images import Dataset
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def command(monkeypatch):
    """Runs the command with a dataset whose preparation is the given function."""

    def run(prepare_it, *, dataset="made_up", arguments=()):
        entry = Dataset(name="made_up", open=lambda _: None, prepare=prepare_it)
        monkeypatch.setitem(prepare.SOURCES, "made_up", entry)
        values = namedtuple("values", "dataset data_dir")(dataset, "some/folder")
        monkeypatch.setattr(flags, "FLAGS", values)

        def leave(status):
            raise SystemExit(status)

        monkeypatch.setattr(prepare.os, "_exit", leave)
        prepare._main(["prepare", *arguments])

    return run


def test_the_command_prints_where_the_data_went(command, capsys):
    command(lambda options: f"lies in {options.data_dir}")
    assert capsys.readouterr().out == "lies in some/folder\n"


def test_the_command_tells_errors_with_status_1(command, capsys):
    def fail(options):
        raise PmalError("no such thing")

    with pytest.raises(SystemExit, match="1"):
        command(fail)
    assert capsys.readouterr().err == "Error: no such thing\n"


def test_the_command_tells_an_unknown_dataset(command, capsys):
    with pytest.raises(SystemExit, match="1"):
        command(lambda options: "", dataset="imagenet")
    assert "Received: dataset='imagenet'" in capsys.readouterr().err


def test_ctrl_c_leaves_with_status_130_and_a_line(command, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        command(interrupted)
    (line,) = capsys.readouterr().err.splitlines()
    assert "Finished downloads are kept" in line


SCRIPT = """
import concurrent.futures, runpy, signal, sys, time
# A shell that starts the tests in the background has its children ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pmal_tf.data.datasets import tiny_imagenet
concurrent.futures.ThreadPoolExecutor().submit(time.sleep, 60)  # As TFDS has them.
tiny_imagenet.URL = sys.argv.pop()
runpy.run_module("pmal_tf.data.prepare", run_name="__main__")
"""


def test_ctrl_c_in_a_download_ends_it_at_once_and_keeps_what_arrived(server, tmp_path):
    server.files["tiny-imagenet-200.zip"] = bytes(1_000_000)
    server.hold = threading.Event()
    url = f"{server.url}/tiny-imagenet-200.zip"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", SCRIPT, "--dataset=tiny_imagenet"),
            *(f"--data_dir={tmp_path}", url),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "downloads" / "manual" / "tiny-imagenet-200.zip.part"
    try:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert not out
    assert "Traceback" not in err
    assert "Finished downloads are kept" in err.splitlines()[-1]
    assert part.exists()
    assert not (tmp_path / "tiny_imagenet").exists()

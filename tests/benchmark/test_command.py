"""The command line of all benchmarks."""

import json
import subprocess
import sys

import pytest
from absl import app, flags
from absl.testing import flagsaver

from pmal_tf.benchmark import __main__ as command
from pmal_tf.benchmark import mining
from pmal_tf.benchmark.__main__ import define_flags, settings_from
from pmal_tf.benchmark.measurement import Measurement
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.errors import PmalError


def settings_of(*words):
    values = flags.FlagValues()
    define_flags(values)
    values(["benchmark", *words])
    return settings_from(values)


def test_flags_have_the_defaults_of_the_settings():
    defaults = settings_of()
    assert defaults == BenchmarkSettings()
    assert (defaults.backbones, defaults.batch_sizes) == (("oscri",), (128,))
    assert (defaults.n, defaults.references) == (
        20_000,
        ("scipy", "matmul", "sqrt"),
    )


def test_lists_become_tuples_of_their_type():
    given = settings_of("--batch_sizes=8,16", "--datasets=mnist", "--references=")
    assert given.batch_sizes == (8, 16)
    assert given.datasets == ("mnist",)
    assert given.references == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n=1"], r"`n` must lie in \[2, inf\). Received: n=1"),
        (["--references=sqrt,numpy"], "one of scipy, matmul, sqrt. Received: .*numpy"),
        (["--backbones=vgg"], "`backbones` must be one of .*oscri.*Received: .*vgg"),
        (["--batch_sizes=8,many"], "type int\\. Received: 'many'"),
        (["--batch_sizes=0"], "`batch_sizes` must lie in .*Received: batch_sizes=0"),
    ],
)
def test_values_out_of_range_are_errors(words, message):
    with pytest.raises(PmalError, match=message):
        settings_of(*words)


def test_the_command_tells_a_mistake_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "pmal_tf.benchmark", "mining", "--n=1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Error: `n` must lie in [2, inf). Received: n=1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def parsed(monkeypatch):
    """Parses a command line into absl's own flags, which `main` reads."""

    def parse(*words):
        values = flags.FlagValues()
        define_flags(values)
        values(["benchmark", *words])
        monkeypatch.setattr(command.flags, "FLAGS", values)

    with flagsaver.flagsaver():
        yield parse


def test_the_measurements_are_printed_and_written(
    parsed, monkeypatch, capsys, tmp_path
):
    def run(settings):
        found = Measurement("a", 2.0, "ratio", 6.0, 3.0, "s", ([6.0], [3.0]), "note")
        return "a table\n", [
            found,
            Measurement("peak_memory", float(settings.n), "MiB"),
        ]

    monkeypatch.setattr(mining, "run", run)
    path = tmp_path / "new" / "mining.json"
    parsed("--n=5", f"--json={path}")
    command.main(["benchmark", "mining"])
    assert capsys.readouterr().out == "a table\n"
    first, second = json.loads(path.read_text())
    assert first == {
        "name": "a",
        "value": 2.0,
        "unit": "ratio",
        "ours": 6.0,
        "reference": 3.0,
    }
    assert (second["ours"], second["reference"]) == (None, None)
    assert second["value"] == pytest.approx(5.0)


@pytest.mark.parametrize("words", [[], ["eating"], ["input", "mining"]])
def test_one_benchmark_is_to_be_named(words):
    with pytest.raises(
        app.UsageError, match="Name one benchmark of input, mining, quality"
    ):
        command.main(["benchmark", *words])

"""Shared fixtures: one process, one TensorFlow, tiny models."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from filelock import FileLock
from tiny_run import tiny

from pmal_tf.runtime.files import write_text
from pmal_tf.workflow.engine import Workflow
from pmal_tf.workflow.experiment import run_experiment
from pmal_tf.workflow.flags import config_from_flags, define_flags, parse_arguments

# Two logical devices let one machine stand for two replicas; it can be set only before
# TensorFlow starts up.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(scope="session")
def defined_flags():
    # absl's FLAGS is one per process, and other tests may have defined them.
    if "epsilon" not in flags.FLAGS:
        define_flags()


@pytest.fixture
def parse(defined_flags):
    def parse(*arguments):
        was_parsed = flags.FLAGS.is_parsed()
        with flagsaver.flagsaver():
            remaining = parse_arguments(["program", *arguments])
            config = config_from_flags()
        if not was_parsed:
            flags.FLAGS.unparse_flags()
        assert remaining == ["program"]
        return config

    return parse


@pytest.fixture(scope="session")
def tfds_data_dir():
    """Folder of prepared TensorFlow Datasets, for tests on real MNIST and CIFAR-10."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder:
        pytest.skip("set TFDS_DATA_DIR to a folder of prepared datasets to run this")
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run; tests that change it work on a copy."""
    # The workers of pytest-xdist share the one that the first of them has made.
    parent = tmp_path_factory.getbasetemp()
    parent = parent.parent if "PYTEST_XDIST_WORKER" in os.environ else parent
    folder = parent / "shared_run"
    table = folder / "table.txt"
    with FileLock(parent / "shared_run.lock"):
        if not table.exists():
            write_text(table, run_experiment(tiny(folder)))
    return folder, table.read_text(encoding="utf-8")


@pytest.fixture
def run_copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """Names of the stages that were made, not taken or skipped."""
    names = []
    make = Workflow._make

    def recorded(workflow, stage, *arguments):
        result = make(workflow, stage, *arguments)
        names.append(stage.name)
        return result

    monkeypatch.setattr(Workflow, "_make", recorded)
    return names


@pytest.fixture
def untrained(monkeypatch):
    """Classifiers stay as they were drawn: mining does not ask for more."""
    fit = "pmal_tf.methods.classifier_stage.fit_classifier"
    monkeypatch.setattr(fit, lambda *_, **__: None)

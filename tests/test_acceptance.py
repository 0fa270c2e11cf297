"""The scripts of `tests/acceptance/`, shortened; they prove more at full length."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _real_photographs(tfds_data_dir):
    """The scripts make their images from CIFAR-10's."""


def script(name):
    path = Path(__file__).parent / "acceptance" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_of_photographs_becomes_a_served_classifier(tmp_path):
    table = script("folder_of_photos").main(tmp_path, 10, "--epochs=1")
    assert "| PMAL " in table


def test_tiny_imagenet_of_the_official_layout_is_prepared_and_split(tmp_path):
    printed = script("tiny_imagenet_at_full_size").prepare(tmp_path, 2, 1)
    assert printed.count("40 training, 20 known test, 180 unknown test") == 5

"""Fixtures of the tests on data."""

import pytest
from local_server import local_server
from tiny_zip import write_tiny_imagenet_zip

from pmal_tf.data.datasets import tiny_imagenet
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import manual_folder


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with local_server() as server:
        yield server


@pytest.fixture(scope="session")
def prepared_tiny(tmp_path_factory):
    """A small Tiny ImageNet: its data folder, the classes of its images, the report."""
    root = tmp_path_factory.mktemp("prepared")
    classes = write_tiny_imagenet_zip(manual_folder(root) / tiny_imagenet.ZIP_NAME)
    line = tiny_imagenet.prepare(SourceOptions(data_dir=str(root)))
    return root, classes, line

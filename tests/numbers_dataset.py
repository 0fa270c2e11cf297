"""A dataset of TensorFlow Datasets whose one file lies on a local server."""

import contextlib
import gzip
import hashlib

import pytest
from local_server import local_server

BUILDER = """
import numpy as np
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"number": np.int64})
        )

    def _split_generators(self, dl_manager):
        archive = dl_manager.download("URL/numbers.txt.gz")
        path = dl_manager.extract(archive)
        return {"train": self._generate_examples(path)}

    def _generate_examples(self, path):
        for line in path.read_text().split():
            yield line, {"number": int(line)}
"""


@contextlib.contextmanager
def numbers_dataset(folder):
    """Writes the package of its builder, and yields the server and the builder.

    TensorFlow Datasets registers a builder once: one test file can use it.
    """
    package = folder / "pmal_numbers"
    package.mkdir()
    content = gzip.compress(" ".join(map(str, range(50))).encode(), mtime=0)
    with local_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.syspath_prepend(str(folder))
        server.files["numbers.txt.gz"] = content
        (package / "__init__.py").touch()
        (package / "pmal_numbers_dataset_builder.py").write_text(
            BUILDER.replace("URL", server.url)
        )
        row = (f"{server.url}/numbers.txt.gz", str(len(content)))
        sha = hashlib.sha256(content).hexdigest()
        (package / "checksums.tsv").write_text(
            "\t".join([*row, sha, "numbers.txt.gz"]) + "\n"
        )
        from pmal_numbers.pmal_numbers_dataset_builder import Builder

        yield server, Builder

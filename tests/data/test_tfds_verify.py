import json
import os
import shutil

import pytest

from pmal_tf.data.datasets.tiny_imagenet import prepare
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds import read
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.data.tfds.read import verify_prepared
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def copy(prepared_tiny, tmp_path):
    """A prepared dataset that may be damaged."""
    folder = tmp_path / "tiny_imagenet" / "1.0.0"
    shutil.copytree(prepared_tiny[0] / "tiny_imagenet" / "1.0.0", folder)
    return folder


def damage(folder, kind):
    (shard,) = folder.glob("*-train.tfrecord-*")
    info = folder / "dataset_info.json"
    content = bytearray(shard.read_bytes())
    # A record is its length of 8 bytes, a checksum of 4, the data and a checksum of 4.
    first_record = 16 + int.from_bytes(content[:8], "little")
    if kind == "missing shard":
        shard.unlink()
    elif kind == "cut off in a record":
        shard.write_bytes(content[:-5])
    elif kind == "a record too few":
        shard.write_bytes(content[first_record:])
    elif kind == "overwritten":
        content[-10] ^= 1
        shard.write_bytes(content)
    elif kind == "a record too many":
        shard.write_bytes(content + content[:first_record])
    elif kind == "description of another format":
        info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    elif kind == "description without splits":
        info.write_text(json.dumps({**json.loads(info.read_text()), "splits": []}))
    else:
        info.write_text(kind)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing shard", "no tiny_imagenet-train.tfrecord-00000-of-00001"),
        ("cut off in a record", "tfrecord-00000-of-00001: .*truncated"),
        ("a record too few", "tfrecord-00000-of-00001: 399 records, not 400"),
        ("overwritten", "tfrecord-00000-of-00001: .*corrupted"),
        ("a record too many", "tfrecord-00000-of-00001: 401 records, not 400"),
        ("description of another format", "not TFRecord"),
        ("description without splits", "without splits"),
        ("", "Received"),
        ('{"name": "tiny_ima', "Received"),
        ("[]", "Received"),
    ],
)
def test_a_damaged_dataset_is_an_error_that_names_the_folder(kind, reason, copy, capfd):
    assert verify_prepared(copy) == {"train": 400, "test": 200}
    damage(copy, kind)
    options = SourceOptions(data_dir=str(copy.parent.parent))
    with pytest.raises(PmalError, match=rf"is damaged.*{reason}.*Remove") as raised:
        prepare(options)
    assert repr(str(copy)) in str(raised.value)


def test_verifying_shows_progress_when_it_takes_long(copy, monkeypatch, capfd):
    verify_prepared(copy)
    assert not capfd.readouterr().err
    monkeypatch.setattr(read, "_PATIENCE_SECONDS", 0.0)
    verify_prepared(copy)
    assert "Verifying tiny_imagenet: 100%" in capfd.readouterr().err


def test_a_real_dataset_is_verified_and_left_as_it_is(tfds_data_dir):
    def state():
        below = os.path.join(tfds_data_dir, "cifar10")
        return [(path, os.stat(path).st_mtime_ns) for path, *_ in os.walk(below)]

    before = state()
    line = prepare_all(("cifar10",), SourceOptions(data_dir=tfds_data_dir))
    assert "was already prepared in" in line
    assert "50,000 train, 10,000 test images" in line
    assert state() == before

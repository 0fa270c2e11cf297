import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tiny_zip import DAMAGES, GREY, image_bytes, write_tiny_imagenet_zip

from pmal_tf.data.datasets import tiny_imagenet as prepare
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tiny_imagenet import WNIDS, ZIP_NAME
from pmal_tf.data.tiny_imagenet.tiny_imagenet_dataset_builder import Builder
from pmal_tf.runtime.errors import PmalError

ZIP = "downloads/manual/tiny-imagenet-200.zip"


@pytest.fixture(scope="module")
def examples(prepared_tiny):
    """The stored examples by split, with the images still encoded."""
    builder = tfds.builder_from_directory(prepared_tiny[0] / "tiny_imagenet" / "1.0.0")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return {
        split: list(builder.as_dataset(split, decoders=decoders).as_numpy_iterator())
        for split in ("train", "test")
    }


def test_the_classes_are_200_sorted_wordnet_ids():
    assert len(set(WNIDS)) == 200
    assert list(WNIDS) == sorted(WNIDS)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in WNIDS)
    # Goldfish is the first in sorted order; Egyptian cat leads the official wnids.txt.
    assert WNIDS[0] == "n01443537"
    assert WNIDS.index("n02124075") == 32


def test_the_class_list_does_not_wait_for_tensorflow():
    code = (
        "import sys, pmal_tf.data.datasets.tiny_imagenet; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_zip_is_an_error_that_names_the_file_and_the_damage(damage, tmp_path):
    path = tmp_path / ZIP
    write_tiny_imagenet_zip(path, train_per_class=1, damage=damage)
    with pytest.raises(PmalError, match=re.escape(DAMAGES[damage])) as raised:
        prepare.prepare(SourceOptions(data_dir=str(tmp_path)))
    assert str(path) in str(raised.value)
    assert path.exists()
    assert not (tmp_path / "tiny_imagenet").exists()


def test_a_folder_in_the_place_of_the_zip_is_an_error(tmp_path):
    (tmp_path / ZIP).mkdir(parents=True)
    with pytest.raises(PmalError, match="IsADirectoryError"):
        prepare.prepare(SourceOptions(data_dir=str(tmp_path)))


def test_prepare_says_where_the_images_lie(prepared_tiny):
    root, _, line = prepared_tiny
    assert str(root / "tiny_imagenet" / "1.0.0") in line
    assert "was prepared in" in line
    assert "400 train, 200 test images" in line
    again = prepare.prepare(SourceOptions(data_dir=str(root)))
    assert "was already prepared in" in again


def test_examples_have_the_class_of_their_file(prepared_tiny, examples):
    _, (train, val), _ = prepared_tiny
    for split, classes in (("train", train), ("test", val)):
        found = {
            example["file_name"].decode(): WNIDS[example["label"]]
            for example in examples[split]
        }
        assert found == classes
        assert len(examples[split]) == len(classes)
        for example in examples[split]:
            expected = f"name of {WNIDS[example['label']]}"
            assert example["name"].decode() == expected


def test_images_are_kept_as_they_are(examples):
    by_name = {
        example["file_name"].decode(): example["image"]
        for split in examples.values()
        for example in split
    }
    assert by_name[f"{WNIDS[17]}_1.JPEG"] == image_bytes(17, 1)
    assert by_name[GREY] == image_bytes(0, 0, grey=True)
    assert by_name["val_0.JPEG"] == image_bytes(5, 1000)


def test_grey_images_are_read_in_colour(prepared_tiny):
    builder = tfds.builder_from_directory(prepared_tiny[0] / "tiny_imagenet" / "1.0.0")
    dataset = builder.as_dataset("train").filter(
        lambda example: example["file_name"] == GREY
    )
    (example,) = dataset.as_numpy_iterator()
    assert example["image"].shape == (64, 64, 3)
    np.testing.assert_array_equal(example["image"][..., 0], example["image"][..., 2])


def test_a_prepared_copy_needs_no_builder_class(prepared_tiny):
    code = (
        "import sys, tensorflow_datasets as tfds; "
        "builder = tfds.builder_from_directory(sys.argv[1]); "
        "assert not any(name.startswith('pmal_tf') for name in sys.modules); "
        "assert builder.info.features['label'].names[0] == 'n01443537'; "
        "assert builder.info.splits['train'].num_examples == 400"
    )
    folder = prepared_tiny[0] / "tiny_imagenet" / "1.0.0"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=environment)


def test_the_order_of_examples_does_not_depend_on_the_zip(examples):
    # TFDS sorts by a hash of the key, which is the name of the file.
    names = [example["file_name"].decode() for example in examples["test"]]
    assert names != sorted(names)
    assert len(set(names)) == 200


@pytest.mark.parametrize("official", [False, True])
def test_a_zip_of_another_size_is_warned_of(official, monkeypatch, tmp_path, caplog):
    if official:
        monkeypatch.setattr(prepare, "_OFFICIAL_COUNTS", (200, 200))
    write_tiny_imagenet_zip(tmp_path / ZIP, train_per_class=1)
    prepare._collect(Builder, tmp_path)
    assert ("200 training and 200 validation images" in caplog.text) is not official
    assert ("has 100000 and 10000. Results" in caplog.text) is not official


def test_a_missing_zip_is_downloaded_checked_and_prepared(
    monkeypatch, server, tmp_path
):
    write_tiny_imagenet_zip(tmp_path / "served.zip", train_per_class=1)
    content = (tmp_path / "served.zip").read_bytes()
    server.files["tiny-imagenet-200.zip"] = content
    monkeypatch.setattr(prepare, "MD5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(prepare, "SIZE", len(content))
    monkeypatch.setattr(prepare, "URL", f"{server.url}/tiny-imagenet-200.zip")
    root = tmp_path / "data"
    line = prepare.prepare(SourceOptions(data_dir=str(root)))
    assert "200 train, 200 test images" in line
    assert [path.name for path in (root / ZIP).parent.iterdir()] == [
        "tiny-imagenet-200.zip"
    ]
    assert (root / ZIP).read_bytes() == content


def test_without_a_connection_it_says_where_to_put_the_zip(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(prepare, "URL", "http://127.0.0.1:9/tiny-imagenet-200.zip")
    monkeypatch.setattr(prepare, "SIZE", 1000)
    root = tmp_path / "data"
    with pytest.raises(PmalError, match="Connection refused") as raised:
        prepare.prepare(SourceOptions(data_dir=str(root)))
    message = str(raised.value)
    assert f"http://127.0.0.1:9/{ZIP_NAME} as {ZIP_NAME}" in message
    assert repr(str((root / ZIP).parent)) in message
    assert "tiny_imagenet/1.0.0" in message
    assert not root.exists()


def test_an_image_that_is_damaged_in_the_zip_leaves_nothing_behind(tmp_path):
    write_tiny_imagenet_zip(tmp_path / ZIP, damage="damaged image")
    with pytest.raises(PmalError, match="Bad CRC-32"):
        prepare.prepare(SourceOptions(data_dir=str(tmp_path)))
    assert not list(tmp_path.rglob("*incomplete*"))
    write_tiny_imagenet_zip(tmp_path / ZIP, train_per_class=1)
    assert tf.io.gfile.exists(str(tmp_path / ZIP))
    assert "was prepared" in prepare.prepare(SourceOptions(data_dir=str(tmp_path)))

import errno
import os
import shutil
import time
from collections import namedtuple

import pytest
from filelock import FileLock
from numbers_dataset import numbers_dataset

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds import prepare as tfds_prepare
from pmal_tf.data.tfds.prepare import prepare_dataset
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    with numbers_dataset(tmp_path_factory.mktemp("packages")) as (server, builder):
        yield server, builder


@pytest.fixture
def prepare_numbers(numbers, monkeypatch, tmp_path):
    """Prepares that dataset below the test's folder; the server works as usual."""
    server, _ = numbers
    server.asked.clear()
    monkeypatch.setattr(server, "files", dict(server.files))

    def run(root=tmp_path / "data", collect=tfds_prepare.check_downloads):
        options = SourceOptions(data_dir=str(root))
        return prepare_dataset("pmal_numbers", options, collect)

    run.server = server
    run.root = tmp_path / "data"
    return run


def files_below(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


def test_a_dataset_is_downloaded_prepared_verified_and_then_only_verified(
    prepare_numbers,
):
    line = prepare_numbers()
    folder = prepare_numbers.root / "pmal_numbers" / "1.2.0"
    assert f"was prepared in {folder}" in line
    assert "50 train images" in line
    before = files_below(prepare_numbers.root)
    assert not any("lock" in name for name in before)
    asked = len(prepare_numbers.server.asked)
    assert f"was already prepared in {folder}" in prepare_numbers()
    assert files_below(prepare_numbers.root) == before
    assert len(prepare_numbers.server.asked) == asked


def test_a_finished_download_is_not_downloaded_again(prepare_numbers):
    prepare_numbers()
    shutil.rmtree(prepare_numbers.root / "pmal_numbers")
    prepare_numbers.server.asked.clear()
    prepare_numbers.server.files.clear()
    assert "was prepared in" in prepare_numbers()
    assert not prepare_numbers.server.asked


def test_a_file_placed_by_hand_needs_no_connection(prepare_numbers):
    manual = prepare_numbers.root / "downloads" / "manual"
    manual.mkdir(parents=True)
    content = prepare_numbers.server.files.pop("numbers.txt.gz")
    (manual / "numbers.txt.gz").write_bytes(content)
    assert "was prepared in" in prepare_numbers()
    assert not prepare_numbers.server.asked


def test_a_wrong_file_placed_by_hand_is_an_error_that_names_it(prepare_numbers):
    manual = prepare_numbers.root / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "numbers.txt.gz").write_bytes(b"rubbish")
    with pytest.raises(PmalError, match=r"manual/numbers\.txt\.gz.*wrong checksum"):
        prepare_numbers()


def test_without_a_connection_it_fails_at_once_and_leaves_nothing(prepare_numbers):
    prepare_numbers.server.files.clear()
    started = time.monotonic()
    with pytest.raises(PmalError, match="404") as raised:
        prepare_numbers()
    assert time.monotonic() - started < 5.0
    message = str(raised.value)
    assert f"{prepare_numbers.server.url}/numbers.txt.gz as numbers.txt.gz" in message
    assert str(prepare_numbers.root / "downloads" / "manual") in message
    assert str(prepare_numbers.root / "pmal_numbers" / "1.2.0") in message
    assert not prepare_numbers.root.exists()


def test_a_folder_that_was_there_stays_when_preparing_fails(prepare_numbers):
    prepare_numbers.root.mkdir()
    prepare_numbers.server.files.clear()
    with pytest.raises(PmalError, match="404"):
        prepare_numbers()
    assert not list(prepare_numbers.root.iterdir())


def test_a_connection_that_breaks_while_tfds_downloads_is_told_apart(prepare_numbers):
    def break_off(builder, root):
        prepare_numbers.server.files.clear()

    with pytest.raises(PmalError, match=r"broke off.*404.*numbers\.txt\.gz as"):
        prepare_numbers(collect=break_off)
    assert not list(prepare_numbers.root.rglob("*.tmp.*"))
    assert not (prepare_numbers.root / "pmal_numbers").exists()


def test_a_failure_while_generating_leaves_nothing_half_prepared(
    prepare_numbers, numbers, monkeypatch
):
    def fail(self, path):
        yield "1", {"number": 1}
        assert list(prepare_numbers.root.rglob("incomplete.*"))
        raise RuntimeError("in the middle")

    monkeypatch.setattr(numbers[1], "_generate_examples", fail)
    with pytest.raises(PmalError, match="RuntimeError: in the middle"):
        prepare_numbers()
    assert not list(prepare_numbers.root.rglob("*incomplete*"))
    assert not (prepare_numbers.root / "pmal_numbers").exists()


def test_what_a_killed_preparation_left_is_removed_and_the_rest_is_kept(
    prepare_numbers,
):
    root, random = prepare_numbers.root, "0123456789abcdef" * 2
    gone = [
        "pmal_numbers/incomplete.ABC123_1.2.0/dataset_info.json",
        f"downloads/pmal_numbers/host_numbers.txt.gz.tmp.{random}/numbers.txt.gz",
        f"downloads/extracted/incomplete.{random}_GZIP.numbers.txt.gz",
    ]
    kept = [
        "another/incomplete.ABC123_1.0.0/shard",
        f"downloads/another/host_other.gz.tmp.{random}/other.gz",
        f"downloads/extracted/incomplete.{random}_GZIP.other.gz",
        "downloads/manual/other.gz",
    ]
    for name in gone + kept:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    assert "was prepared in" in prepare_numbers()
    found = files_below(root)
    assert not set(gone) & set(found)
    assert set(kept) <= set(found)


def test_a_dataset_that_another_process_prepares_is_left_to_it(prepare_numbers):
    folder = prepare_numbers.root / "pmal_numbers"
    (folder / "incomplete.ABC123_1.2.0").mkdir(parents=True)
    with FileLock(folder / "preparing.lock"):
        with pytest.raises(PmalError, match="Another process is preparing"):
            prepare_numbers()
        assert (folder / "incomplete.ABC123_1.2.0").exists()
    assert "was prepared in" in prepare_numbers()


def check_unwritable(prepare_numbers, root):
    with pytest.raises(PmalError, match="data folder cannot be written") as raised:
        prepare_numbers(root)
    assert str(root) in str(raised.value)
    assert "onnection" not in str(raised.value)
    assert not prepare_numbers.server.asked


def test_a_data_folder_below_a_file_cannot_be_written(prepare_numbers, tmp_path):
    (tmp_path / "file").touch()
    check_unwritable(prepare_numbers, tmp_path / "file" / "data")
    check_unwritable(prepare_numbers, tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_data_folder_without_permission_cannot_be_written(prepare_numbers, tmp_path):
    tmp_path.chmod(0o500)
    try:
        check_unwritable(prepare_numbers, tmp_path / "data")
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_disk_cannot_be_written(prepare_numbers, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "_acquire", read_only)
    check_unwritable(prepare_numbers, prepare_numbers.root)
    assert not prepare_numbers.root.exists()


def test_a_disk_that_fills_up_while_generating_is_told_apart(
    prepare_numbers, numbers, monkeypatch
):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(numbers[1], "_generate_examples", full)
    with pytest.raises(PmalError, match=r"cannot be written.*No space left"):
        prepare_numbers()


def test_too_little_room_is_an_error_before_anything_is_downloaded(
    prepare_numbers, monkeypatch
):
    usage = namedtuple("usage", "free")
    size = len(prepare_numbers.server.files["numbers.txt.gz"])
    # The file once as it is, and about as much again once prepared.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * size - 1))
    with pytest.raises(PmalError, match="Not enough disk space"):
        prepare_numbers()
    assert not prepare_numbers.server.asked
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * size))
    tfds_prepare.check_space(prepare_numbers.root.parent, 2 * size)

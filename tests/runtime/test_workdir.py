import errno
import hashlib
import json
import logging
import re
import threading
import time

import numpy as np
import pytest
from filelock import FileLock, Timeout

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import (
    MARKER,
    Marker,
    checksum,
    differences,
    locked,
    read_json,
    save_arrays,
    write_atomically,
    write_json,
    write_text,
)


def make_marker(**changes):
    values = {
        "key": "k",
        "inputs": {"epochs": 3, "width": 0.1, "augment": "on", "jit": True},
        "upstream": {"pretrain_0": "abc"},
        "outputs": {},
        "seconds": 1.5,
        "facts": {"export": "saved_models/a"},
    }
    return Marker(**{**values, **changes})


def test_writing_makes_the_folder_and_leaves_only_the_file(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "text ± \n")
    assert path.read_text() == "text ± \n"
    assert list(path.parent.iterdir()) == [path]


def test_the_temporary_file_lies_beside_with_the_same_suffix(tmp_path):
    path = tmp_path / "model.keras"
    seen = []

    def write(temporary):
        seen.append(temporary)
        temporary.write_text("new")
        assert not path.exists()

    write_atomically(path, write)
    assert seen[0].parent == tmp_path
    assert seen[0].suffix == ".keras"
    assert seen[0] != path
    assert path.read_text() == "new"


def test_what_a_full_disk_cut_off_does_not_stay(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("as it was")

    def write(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*file\.txt'"):
        write_atomically(path, write)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "as it was"


def test_json_round_trip_is_exact(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": [0.1, 1e-300, 3], "b": None, "c": {"d": True, "e": "±"}}
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_errors_and_leave_the_old_file(number, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": number})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_an_error_that_names_the_file(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(PmalError, match=f"damaged.*{re.escape(str(path))}"):
        read_json(path)


def test_the_checksum_of_a_file_depends_on_its_content_only(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    third.write_bytes(b"other")
    assert checksum(first) == checksum(second) != checksum(third)
    assert checksum(first) == hashlib.sha256(b".same").hexdigest()


def test_the_checksum_of_a_folder_depends_on_names_and_content(tmp_path):
    def folder(name, files):
        for relative, content in files.items():
            path = tmp_path / name / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return checksum(tmp_path / name)

    original = folder("a", {"x": "1", "deep/y": "2"})
    assert folder("b", {"deep/y": "2", "x": "1"}) == original
    assert folder("c", {"x": "1", "deep/z": "2"}) != original
    assert folder("d", {"x": "1", "deep/y": "3"}) != original
    assert folder("e", {"x": "1"}) != original
    assert folder("f", {"x": "2", "deep/y": "1"}) != original


def test_a_marker_reads_back_as_it_was_written(tmp_path):
    marker = make_marker(outputs={"mining/prototypes.npz": "123"})
    marker.write(tmp_path / "mining")
    assert Marker.read(tmp_path / "mining") == marker
    assert Marker.read(tmp_path / "mining").hash == marker.hash
    assert read_json(tmp_path / "mining" / MARKER)["hash"] == marker.hash


def test_a_folder_without_a_marker_reads_as_none(tmp_path):
    assert Marker.read(tmp_path) is None
    assert Marker.read(tmp_path / "missing") is None


def test_the_hash_covers_what_was_made_and_not_how_it_came_about():
    marker = make_marker()
    assert make_marker(outputs={"a": "1"}).hash != marker.hash
    assert make_marker(facts={}).hash != marker.hash
    other = make_marker(key="l", seconds=99.0, inputs={}, upstream={})
    assert other.hash == marker.hash


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"inputs": {}}', "\xff"])
def test_a_damaged_marker_counts_as_none(content, tmp_path):
    (tmp_path / MARKER).write_text(content, encoding="latin-1")
    assert Marker.read(tmp_path) is None


@pytest.mark.parametrize(
    "damage",
    [
        {"outputs": None},
        {"key": None},
        {"hash": None},
        {"more": 1},
        {"outputs": {"a.npz": "1"}},  # Changed by hand.
    ],
)
def test_a_marker_with_other_entries_is_damaged(tmp_path, damage):
    make_marker().write(tmp_path)
    path = tmp_path / MARKER
    content = {**read_json(path), **damage}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    assert Marker.read(tmp_path) is None


def test_what_is_wrong_with_outputs_is_said(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"array")
    marker = make_marker(outputs={"a.npz": checksum(tmp_path / "a.npz")})
    (tmp_path / "unrelated.txt").write_text("is nobody's output")
    assert marker.fault(tmp_path) == ""
    (tmp_path / "a.npz").write_bytes(b"arraz")
    assert "a.npz has another checksum" in marker.fault(tmp_path)
    (tmp_path / "a.npz").unlink()
    assert marker.fault(tmp_path) == "a.npz is missing"


def test_arrays_are_written_alike_by_every_numpy(tmp_path, monkeypatch):
    """NumPy 2.0 has no option `allow_pickle`, and would write it as an array."""
    save, seen = np.savez, []

    def savez(file, *arrays, **named):
        seen.append(set(named))
        save(file, *arrays, **named)

    monkeypatch.setattr(np, "savez", savez)
    arrays = {"b": np.arange(3), "a": np.array("text"), "c": np.array(True)}
    save_arrays(tmp_path / "a.npz", arrays)
    assert seen == [{"a", "b", "c"}]
    with np.load(tmp_path / "a.npz") as stored:
        assert stored.files == ["b", "a", "c"]
        assert str(stored["a"]) == "text"
    save_arrays(tmp_path / "b.npz", {"zeros": np.zeros(10_000)}, compressed=True)
    assert (tmp_path / "b.npz").stat().st_size < 1000
    with pytest.raises(TypeError, match="'objects'"):
        save_arrays(tmp_path / "c.npz", {"objects": np.array([{}, None])})
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz", "b.npz"}


def test_differences_name_what_was_changed_added_and_removed():
    old = {"same": 1, "width": 0.5, "gone": "x"}
    new = {"width": 0.25, "same": 1, "added": True}
    assert differences(old, new) == [
        "added: None -> True",
        "gone: 'x' -> None",
        "width: 0.5 -> 0.25",
    ]
    assert differences(old, dict(old)) == []


def test_a_lock_is_waited_for_and_done_without_where_there_is_none(
    tmp_path, monkeypatch, caplog
):
    path = tmp_path / "new" / "one.lock"
    caplog.set_level(logging.INFO, logger="absl")
    with locked(path):
        with pytest.raises(Timeout), locked(path):
            pytest.fail("it is held")
        holder = threading.Thread(target=_hold, args=(path, "one; waiting"))
        holder.start()
        deadline = time.monotonic() + 10
        while "one; waiting" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "one; waiting" in caplog.text
        assert holder.is_alive()
    holder.join(10)
    assert not holder.is_alive()

    def unable(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", unable)
    with locked(path):
        pass
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: path.open("no mode"))
    with pytest.raises(ValueError, match="mode"), locked(path):
        pytest.fail("another error passes")


def _hold(path, waiting):
    with locked(path, waiting):
        pass

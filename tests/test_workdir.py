import errno
import hashlib
import json
import re

import pytest

from pmal_tf.errors import PmalError
from pmal_tf.workdir import (
    MARKER,
    Marker,
    checksum,
    differences,
    read_json,
    write_atomically,
    write_json,
    write_text,
)


def make_marker(**changes):
    values = {
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


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old"


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
    assert Marker.read(tmp_path / "mining", "mine") == marker
    assert Marker.read(tmp_path / "mining", "mine").hash == marker.hash
    assert read_json(tmp_path / "mining" / MARKER)["hash"] == marker.hash


def test_a_folder_without_a_marker_reads_as_none(tmp_path):
    assert Marker.read(tmp_path, "mine") is None
    assert Marker.read(tmp_path / "missing", "mine") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {"epochs": 4, "width": 0.1, "augment": "on", "jit": True}},
        {"upstream": {"pretrain_0": "abd"}},
        {"upstream": {}},
        {"outputs": {"a": "1"}},
    ],
)
def test_the_hash_covers_what_the_result_depends_on(changes):
    assert make_marker(**changes).hash != make_marker().hash


def test_the_hash_covers_neither_time_nor_facts_nor_the_order_of_entries():
    marker = make_marker()
    reordered = dict(reversed(marker.inputs.items()))
    other = make_marker(seconds=99.0, facts={}, inputs=reordered)
    assert other.hash == marker.hash


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"inputs": {}}'])
def test_a_damaged_marker_is_an_error_that_names_the_file(content, tmp_path):
    path = tmp_path / MARKER
    path.write_text(content)
    with pytest.raises(PmalError, match=re.escape(str(path))):
        Marker.read(tmp_path, "mine")


def test_a_marker_that_lacks_an_entry_is_damaged(tmp_path):
    make_marker().write(tmp_path)
    path = tmp_path / MARKER
    content = read_json(path)
    del content["outputs"]
    path.write_text(json.dumps(content))
    with pytest.raises(PmalError, match=r"must stand as it was written.*'outputs'"):
        Marker.read(tmp_path, "mine")


def test_a_marker_that_was_changed_by_hand_is_damaged(tmp_path):
    make_marker().write(tmp_path)
    content = read_json(tmp_path / MARKER)
    content["inputs"] = ["not", "a", "dict"]
    (tmp_path / MARKER).write_text(json.dumps(content))
    with pytest.raises(PmalError, match=r"its hash is not.*--stages=mine"):
        Marker.read(tmp_path, "mine")


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "export" / "deep").mkdir(parents=True)
    (tmp_path / "a.npz").write_bytes(b"array")
    (tmp_path / "export" / "deep" / "b.txt").write_text("b")
    names = ("a.npz", "export")
    return tmp_path, make_marker(
        outputs={name: checksum(tmp_path / name) for name in names}
    )


def test_untouched_outputs_pass(trial):
    folder, marker = trial
    (folder / "unrelated.txt").write_text("is nobody's output")
    marker.check_outputs(folder, "mine")


def test_a_missing_output_is_an_error_that_names_it(trial):
    folder, marker = trial
    (folder / "a.npz").unlink()
    with pytest.raises(PmalError, match=r"a\.npz is missing"):
        marker.check_outputs(folder, "mine")


def test_a_changed_output_is_an_error_that_names_it(trial):
    folder, marker = trial
    (folder / "a.npz").write_bytes(b"arraz")
    with pytest.raises(PmalError, match=r"a\.npz has another checksum"):
        marker.check_outputs(folder, "mine")


@pytest.mark.parametrize("change", ["edit", "add", "rename", "remove"])
def test_a_change_inside_an_output_folder_is_an_error(change, trial):
    folder, marker = trial
    inner = folder / "export" / "deep" / "b.txt"
    if change == "edit":
        inner.write_text("c")
    elif change == "add":
        inner.with_name("c.txt").write_text("")
    elif change == "rename":
        inner.rename(inner.with_name("c.txt"))
    else:
        inner.unlink()
    with pytest.raises(PmalError, match="export has another checksum"):
        marker.check_outputs(folder, "mine")


def test_differences_name_what_was_changed_added_and_removed():
    old = {"same": 1, "width": 0.5, "gone": "x"}
    new = {"width": 0.25, "same": 1, "added": True}
    assert differences(old, new) == [
        "added: None -> True",
        "gone: 'x' -> None",
        "width: 0.5 -> 0.25",
    ]


def test_equal_dicts_have_no_differences():
    assert differences({"a": 1, "b": [2]}, {"b": [2], "a": 1}) == []


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

"""Version folders: which are whole, and which go."""

import shutil

import pytest

from pmal_tf.serving.exported import (
    is_intact,
    next_version,
    remove_old_versions,
    versions,
)


def test_an_export_that_was_touched_is_not_intact(exported, tmp_path):
    assert not is_intact(tmp_path / "1")
    shutil.copytree(exported, tmp_path / "1")
    assert is_intact(tmp_path / "1")
    variables = tmp_path / "1" / "variables" / "variables.index"
    variables.write_bytes(variables.read_bytes() + b" ")
    assert not is_intact(tmp_path / "1")


@pytest.fixture
def parent(tmp_path):
    for name in ("1", "2", "9", "10", "writing_11", "withdrawn_3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    return tmp_path


def test_versions_are_in_order_of_number(parent):
    assert [path.name for path in versions(parent)] == ["1", "2", "9", "10"]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (0, {"1", "2", "9", "10"}),
        (1, {"10"}),
        (3, {"2", "9", "10"}),
        (7, {"1", "2", "9", "10"}),
    ],
)
def test_the_newest_versions_stay(parent, keep, left):
    removed = remove_old_versions(parent, keep)
    assert set(removed) == {"1", "2", "9", "10"} - left
    names = {path.name for path in parent.iterdir()}
    assert names == left | {"writing_11", "withdrawn_3"}


def test_no_number_is_given_twice(parent, tmp_path):
    assert next_version(parent).name == "11"
    (parent / "10").rename(parent / "withdrawn_10")
    assert next_version(parent).name == "11"
    (parent / "withdrawn_25").mkdir()
    assert next_version(parent).name == "26"
    assert next_version(parent / "none").name == "1"


def test_what_a_killed_removal_left_is_removed(parent):
    (parent / "removing_0").mkdir()
    remove_old_versions(parent, 0)
    assert not (parent / "removing_0").exists()

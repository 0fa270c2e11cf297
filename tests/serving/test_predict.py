"""`python -m pmal_tf.predict`: files in, rows out, and what to watch at the end."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import binom
from tiny_export import CLASSES, serve_bytes

from pmal_tf.predict import main
from pmal_tf.serving import client
from pmal_tf.serving.answer_text import Table, describe_share, json_lines
from pmal_tf.serving.exported import Promise
from pmal_tf.serving.image_bytes import MAX_BYTES
from pmal_tf.serving.image_files import ImageFile, find_images, read_in_batches

ESCAPE = "\x1b[31m"


def paths_of(photos):
    return sorted(path for path in photos.rglob("*") if path.is_file())


@pytest.fixture
def predict(exported, capsys):
    """Runs the command; gives its status, and what it wrote to stdout and stderr."""

    def run(*arguments, model=exported):
        try:
            status = main([f"--saved_model={model}", *map(str, arguments)])
        except SystemExit as leaving:
            status = leaving.code
        return status, *capsys.readouterr()

    return run


def records(text):
    def no_constant(name):
        raise AssertionError(f"{name} in JSON")

    return [json.loads(line, parse_constant=no_constant) for line in text.splitlines()]


def test_answers_are_the_signature_s_whatever_the_batches(
    predict, exported, loaded, photos
):
    paths = paths_of(photos)
    expected = serve_bytes(loaded, [path.read_bytes() for path in paths])
    status, out, err = predict("--format=json", "--batch_size=2", photos)
    assert status == 0
    answered = records(out)
    assert [record["path"] for record in answered] == list(map(str, paths))
    assert 0 < expected["is_unknown"].sum() < len(paths)
    threshold = json.loads((exported / "metadata.json").read_text())["threshold"]
    for row, record in enumerate(answered):
        assert list(record["distance"]) == list(record["probabilities"])
        assert list(record["distance"]) == list(CLASSES)
        for name in ("distance", "probabilities"):
            values = list(record[name].values())
            np.testing.assert_allclose(values, expected[name][row], atol=1e-6)
        assert record["unknown_score"] == pytest.approx(
            expected["unknown_score"][row], abs=1e-6
        )
        for name in ("class_id", "is_unknown"):
            assert record[name] == expected[name][row]
        for name in ("class_name", "nearest_prototype"):
            assert record[name] == expected[name][row].decode()
        assert record["threshold"] == threshold
        assert record["error"] is None
    unknown = expected["is_unknown"].sum()
    assert f"9 images: {unknown} unknown ({100 * unknown / 9:.1f} %" in err
    assert "set to reject at most 5.0 % of known images" in err


def test_table_has_aligned_columns(predict, photos):
    status, out, _ = predict("--batch_size=4", photos)
    assert status == 0
    header, *rows = out.splitlines()
    assert len(rows) == 9
    for title in ("class", "likeliest", "nearest_prototype"):
        column = header.index(title)
        assert all(row[column - 1] == " " != row[column] for row in rows)
    for title in ("unknown_score", "probability"):
        end = header.index(title) + len(title)
        assert all(float(row[end - 6 : end]) >= 0 for row in rows)
    assert all(row.split()[3] in CLASSES for row in rows)


def test_threshold_overrides_and_unreadable_ones_stay_unknown(
    predict, photos, tmp_path
):
    (tmp_path / "text.png").write_text("no image")
    arguments = ("--format=json", photos, tmp_path)
    status, out, err = predict("--threshold=2", *arguments)
    *known, text = records(out)
    assert status == 2
    for record in known:
        likeliest = max(record["probabilities"], key=record["probabilities"].get)
        assert record["class_name"] == likeliest == CLASSES[record["class_id"]]
        assert (record["is_unknown"], record["threshold"]) == (False, 2.0)
    assert (text["class_id"], text["class_name"]) == (-1, "unknown")
    assert text["is_unknown"] is True
    assert text["unknown_score"] is text["probabilities"] is None
    assert "not a JPEG" in text["error"]
    assert "9 images: 0 unknown" in err
    assert ", 1 unreadable." in err
    assert "set to reject" not in err
    # A score that equals the threshold is not above it.
    score = known[0]["unknown_score"]
    _, out, _ = predict(f"--threshold={score!r}", *arguments)
    assert [record["is_unknown"] for record in records(out)] == [
        *(record["unknown_score"] > score for record in known),
        True,
    ]


@pytest.mark.parametrize("value", ["nan", "-0.1", "2.1", "inf", "much"])
def test_thresholds_that_mean_nothing_are_errors(predict, photos, value):
    status, out, _ = predict(f"--threshold={value}", photos)
    assert status.startswith("Error: ")
    assert "threshold" in status
    assert value in status
    assert not out


def test_what_cannot_be_read_is_told_and_the_rest_answered(predict, photos, tmp_path):
    sound = (photos / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(sound[:60])
    (tmp_path / "empty.gif").touch()
    os.mkfifo(tmp_path / "fifo.png")
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (tmp_path / "nowhere.jpg").symlink_to("gone")
    (tmp_path / "sound.png").write_bytes(sound)
    status, out, err = predict(
        "--format=json", tmp_path, "/dev/zero", tmp_path / "missing.png"
    )
    assert status == 2
    errors = {record["path"].split("/")[-1]: record["error"] for record in records(out)}
    assert errors.pop("sound.png") is None
    parts = {
        "cut.png": "damaged, cut off",
        "empty.gif": "no bytes",
        "fifo.png": "not a regular file",
        "long.jpg": "more than 268,435,456 bytes",
        "nowhere.jpg": "No such file",
        "zero": "not a regular file",
        "missing.png": "there is no such file",
    }
    assert set(errors) == set(parts)
    assert all(parts[name] in errors[name] for name in parts)
    assert "1 image: " in err
    assert ", 7 unreadable." in err


@pytest.mark.parametrize("form", ["table", "json"])
def test_names_may_hold_anything(predict, photos, tmp_path, form):
    names = [b"bad\xff.png", f"red{ESCAPE}\n.png".encode(), "数字.png".encode()]
    for name in names:
        shutil.copy(photos / "0.png", os.path.join(os.fsencode(tmp_path), name))
    status, out, _ = predict(f"--format={form}", tmp_path)
    assert status == 0
    assert ESCAPE not in out
    if form == "json":
        shown = [record["path"].split("/")[-1] for record in records(out)]
        assert sorted(shown) == sorted(
            ["bad\\xff.png", f"red{ESCAPE}\n.png", "数字.png"]
        )
    else:
        assert len(out.splitlines()) == 4
        for name in ("bad\\xff.png", "red\\x1b[31m\\n.png", "数字.png"):
            assert f"/{name} " in out


@pytest.mark.parametrize(
    "text", ["{0}\n{1}\n", "{0}\r\n\r\n{1}", "{0}\n/gone[1]*\n{1}\n"]
)
def test_standard_input_lists_files(predict, photos, monkeypatch, text):
    paths = paths_of(photos)[:2]
    sent = text.format(*paths).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
    _, out, _ = predict("--format=json", "-")
    fine = [r["path"] for r in records(out) if r["error"] is None]
    assert fine == list(map(str, paths))
    assert ("/gone[1]*" in out) == ("gone" in text)


def test_standard_input_may_be_an_image(predict, photos, monkeypatch):
    for path in paths_of(photos)[:4]:
        image = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
        monkeypatch.setattr(sys, "stdin", image)
        status, out, _ = predict("--format=json", "-", "--batch_size=1")
        (of_input,) = records(out)
        _, out, _ = predict("--format=json", path)
        (of_file,) = records(out)
        assert status == 0
        assert of_input == {**of_file, "path": "-"}


def test_a_name_that_begins_like_a_bitmap_is_a_name():
    (found,) = find_images(["-"], io.BytesIO(b"BMW.jpg"))
    assert found == ImageFile("BMW.jpg", "there is no such file")


def test_folders_and_patterns_are_searched(photos, tmp_path):
    for name in ("b.PNG", "a.jpeg", "notes.txt", ".hidden.png", "[x].png"):
        (tmp_path / name).touch()
    for folder in ("below", ".git"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "c.bmp").touch()
    (tmp_path / "below" / "circle").symlink_to(tmp_path)

    def found(*arguments):
        files = find_images([f"{tmp_path}/{name}" for name in arguments], None)
        return [file.path.removeprefix(f"{tmp_path}/") for file in files]

    everything = ["[x].png", "a.jpeg", "b.PNG", "below/c.bmp"]
    assert found("") == everything
    (tmp_path / "below" / "circle").unlink()
    assert found("**/*.*[gGp]") == everything
    assert found("[x].png", "b*") == ["[x].png", "b.PNG"]
    (empty,) = find_images([str(tmp_path / ".git" / "c.bmp*.png")], None)
    assert empty.problem == "no file fits this pattern"
    shutil.rmtree(tmp_path / "below")
    (tmp_path / "below").mkdir()
    (empty,) = find_images([str(tmp_path / "below")], None)
    assert "holds no files" in empty.problem


def test_files_are_read_only_when_their_turn_comes(tmp_path, monkeypatch):
    files = [ImageFile(str(tmp_path / str(index))) for index in range(5)]
    for file in files[:2]:
        (tmp_path / file.path).write_bytes(b"1234")
    batches = read_in_batches(files, 2)
    assert [file.contents for file in next(batches)] == [b"1234"] * 2
    (tmp_path / "2").write_bytes(b"late")
    assert [file.contents for file in next(batches)] == [b"late", None]
    # Large files end a batch early.
    monkeypatch.setattr("pmal_tf.serving.image_files._BATCH_BYTES", 4)
    assert [len(batch) for batch in read_in_batches(files[:2], 2)] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "must be named"),
        (["/nowhere/a.png", "b*.png"], "'/nowhere/a.png': there is no such file, and"),
        (["--batch_size=0", "a.png"], "--batch_size=0"),
        (["--format=xml", "a.png"], "xml"),
        (["--treshold=1", "a.png"], "--treshold"),
        (["--", "--format=json"], "'--format=json': there is no such file"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(predict, tmp_path, arguments, expected):
    status, out, _ = predict(*arguments)
    assert status.startswith("Error: ")
    assert expected in status
    assert not out


@pytest.fixture
def copied(exported, tmp_path):
    """Two versions that a test may spoil."""
    for name in ("9", "10"):
        shutil.copytree(exported, tmp_path / name)
    return tmp_path


def change_metadata(folder, **changes):
    facts = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**facts, **changes}))


def test_newest_intact_version_is_taken_and_named(predict, copied, photos):
    status, _, err = predict(photos, model=copied)
    assert (status, f"Model: {copied / '10'}." in err) == (0, True)
    (copied / "10" / "saved_model.pb").write_bytes(b"broken")
    status, _, err = predict(photos, model=copied)
    assert status == 0
    assert f"Model: {copied / '9'}; passed over as damaged: 10." in err
    (copied / "9" / "variables" / "variables.index").unlink()
    status, _, _ = predict(photos, model=copied)
    assert "whose versions 9, 10 are damaged" in status


def test_other_folders_are_no_models(predict, copied, photos, tmp_path):
    for model in (photos, tmp_path / "gone"):
        status, _, _ = predict(photos, model=model)
        assert "must be the folder of an exported model" in status
    change_metadata(copied / "9", signatures=["serving_default"])
    status, _, _ = predict(photos, model=copied / "9")
    assert "must have the signature 'serving_bytes'" in status
    change_metadata(copied / "9", signatures=["serving_bytes"], class_names=["cat"])
    status, _, _ = predict(photos, model=copied / "9")
    assert "and 1 classes. Received" in status
    assert "with 3 classes. Put" in status
    change_metadata(copied / "9", threshold=None)
    status, _, _ = predict(photos, model=copied / "9")
    assert "sound metadata.json" in status
    (copied / "9" / "metadata.json").unlink()
    status, _, _ = predict(photos, model=copied / "9")
    assert "sound metadata.json" in status
    (copied / "10" / "saved_model.pb").write_bytes(b"broken")
    status, _, err = predict(photos, model=copied / "10")
    assert "must hold a sound SavedModel" in status
    assert "are not those that were exported" in err


def test_a_saved_model_of_others_is_refused(predict, exported, photos, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    facts = (exported / "metadata.json").read_text()
    (tmp_path / "metadata.json").write_text(facts)
    status, _, _ = predict(photos, model=tmp_path)
    assert "with the signature serving_bytes and 3 classes. Received" in status
    assert "with no class_id, error, probabilities, unknown_score" in status


def test_nan_is_never_written():
    answer = client.Answer(unknown_score=np.nan, threshold=1.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_lines([("a.png", answer)])


def test_long_names_widen_no_column():
    said = {"class_name": "cat", "unknown_score": 0.5, "probabilities": {"cat": 1.0}}
    answer = client.Answer(**said, threshold=1.0)
    table = Table(["a" * 61, "b", "c" * 10], CLASSES)
    header, long, short = table.lines([("a" * 61, answer), ("b", answer)]).splitlines()
    assert long.startswith("a" * 61 + "  cat")
    assert short.index("cat") == header.index("class") == 12
    assert "image" not in table.lines([("c" * 10, answer)])


@pytest.mark.parametrize(("unknown", "count"), [(0, 9), (9, 9), (7, 120), (1, 2000)])
def test_interval_is_clopper_pearson_s(unknown, count):
    text = describe_share(unknown, count, 0, promise=None)
    low, high = map(float, re.search(r"interval ([\d.]+) to ([\d.]+) %", text).groups())
    # At each end, a result at least as far off has a probability of 2.5 %; the ends are
    # rounded to 0.1 %.
    if unknown > 0:
        assert binom.sf(unknown - 1, count, max(low / 100 - 5e-4, 0)) <= 0.025
        assert binom.sf(unknown - 1, count, low / 100 + 5e-4) >= 0.025
    if unknown < count:
        assert binom.cdf(unknown, count, high / 100 - 5e-4) >= 0.025
        assert binom.cdf(unknown, count, high / 100 + 5e-4) <= 0.025
    assert (low == 0.0) == (unknown in (0, 1))
    assert (high == 100.0) == (unknown == count)


def test_share_is_held_against_the_promise():
    promise = Promise(0.05, 0.08, 160)

    def said(unknown, given_threshold=None, promise=promise):
        return describe_share(
            *(unknown, 120, 1), promise=promise, given_threshold=given_threshold
        )

    assert said(7) == (
        "120 images: 7 unknown (5.8 %, 95 % interval 2.4 to 11.6 %), 1 unreadable. "
        "The threshold was set to reject at most 5.0 % of known images."
    )
    assert "might explain it: set on 160 images" in said(13)
    assert "up to 8.0 %" in said(13)
    assert "More is rejected than known images alone would explain" in said(30)
    for text in (said(30, given_threshold=0.3), said(30, promise=None)):
        assert "set to reject" not in text
        assert "More is" not in text
    assert describe_share(0, 0, 3, promise=promise) == "0 images, 3 unreadable."


def test_ctrl_c_leaves_with_its_status(predict, photos, monkeypatch):
    def interrupted(self, contents):
        raise KeyboardInterrupt

    monkeypatch.setattr(client.ServedModel, "answer", interrupted)
    assert predict(photos)[0] == 130


def test_help_needs_no_tensorflow_and_a_closed_pipe_is_no_error(exported, photos):
    code = (
        "import contextlib, sys\n"
        "from pmal_tf.predict import main\n"
        "with contextlib.redirect_stdout(sys.stderr):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main(['--help'])\n"
        "assert 'tensorflow' not in sys.modules\n"
        "sys.exit(main())\n"
    )
    arguments = [f"--saved_model={exported}", "--batch_size=1", *[photos] * 5]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, err = process.communicate()
    assert "usage: python -m pmal_tf.predict" in err
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert process.returncode == 141

import contextlib
import dataclasses
import json
import logging
import os
import re
import struct
import unicodedata
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from quick_run import quick_stages
from sklearn.metrics import roc_auc_score
from tiny_run import tiny, trial_folder

from pmal_tf.data.datasets import folder as folder_module
from pmal_tf.data.datasets.folder import DATASETS, held_out_paths
from pmal_tf.data.datasets.folder_scan import ImageEntry, scan
from pmal_tf.data.settings import DataSettings, SourceOptions
from pmal_tf.data.sources import open_source
from pmal_tf.data.splits import apply_split, describe_splits, open_set_split
from pmal_tf.data.trial_images import TrialImages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.workflow.experiment import run_experiment

SIZE = 6
CLASSES = ("cat", "dog", "emu")
FLAT = tuple(f"train/{name}/{n}.png" for name in CLASSES for n in range(5))


def pixels_of(path):
    """The pixels of an image, which tell it from all others."""
    generator = np.random.default_rng(zlib.crc32(path.encode()))
    return generator.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def write_images(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels_of(path))
        # The content is a PNG whatever the suffix: suffixes only choose the files.
        image.save(root / path, "PNG")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "my images"


@pytest.fixture
def opened(root, tmp_path):
    """Opens the folder of images, decoded into another."""

    def open_folder(**options):
        defaults = {
            "data_dir": str(root),
            "cache_dir": str(tmp_path / "cache"),
            "image_size": SIZE,
        }
        return open_source("folder", SourceOptions(**{**defaults, **options}))

    return open_folder


@pytest.fixture
def loaded(opened):
    return lambda **options: opened(**options).load()


def ids(images):
    return set(images.example_id.tolist())


def stores_in(cache):
    """What was decoded; locks lie beside."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def names_of(source, images):
    """Class names by example id; checks that every image has its own pixels."""
    for path, image in zip(images.example_id, images.image[:], strict=True):
        np.testing.assert_array_equal(image, pixels_of(path), err_msg=path)
    return {
        path: source.class_names[label]
        for path, label in zip(images.example_id, images.label, strict=True)
    }


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_folder_without_test_images_gives_a_fifth_of_each_class(root, opened):
    write_images(root, *FLAT)
    source = opened()
    assert (source.name, source.natural) == ("folder", True)
    assert source.class_names == CLASSES
    assert source.own_split == (CLASSES, ())
    assert source.own_protocol == "folder"
    assert not source.unknown_is_estimate
    train, test = source.load()
    assert ids(train) | ids(test) == set(FLAT)
    assert train.label.dtype == test.label.dtype == np.int32
    assert np.bincount(train.label).tolist() == [4, 4, 4]
    assert np.bincount(test.label).tolist() == [1, 1, 1]
    for images in (train, test):
        named = names_of(source, images)
        assert all(path.split("/")[1] == name for path, name in named.items())


def test_a_folder_with_test_images_is_taken_as_it_is(root, opened):
    tested = ("test/cat/0.png", "test/emu/a/b.png")
    write_images(root, *FLAT, *tested)
    source = opened()
    assert source.own_split == (CLASSES, ())
    train, test = source.load()
    assert ids(train) == set(FLAT)
    assert names_of(source, test) == {tested[0]: "cat", tested[1]: "emu"}


UNKNOWN = {
    "unknown/loose.png": "unknown",
    "unknown/owl/0.png": "unknown/owl",
    "unknown/owl/young/1.png": "unknown/owl",
    # The name of a known class is no obstacle.
    "unknown/cat/0.png": "unknown/cat",
}


@pytest.mark.parametrize("tested", [(), ("test/cat/0.png", "test/dog/0.png")])
def test_images_of_no_class_are_tested_on_alone(tested, root, opened):
    write_images(root, *FLAT, *UNKNOWN, *tested)
    source = opened()
    strangers = ("unknown", "unknown/cat", "unknown/owl")
    assert source.class_names == (*CLASSES, *strangers)
    assert source.own_split == (CLASSES, strangers)
    assert not source.unknown_is_estimate
    train, test = source.load()
    assert not ids(train) & set(UNKNOWN)
    of_unknown = {
        path: name
        for path, name in names_of(source, test).items()
        if path.startswith("unknown")
    }
    assert of_unknown == UNKNOWN
    split = open_set_split(source, "paper", 0)
    assert (split.protocol, split.known, split.unknown) == (
        "folder",
        CLASSES,
        strangers,
    )
    known_train, all_test = apply_split(source, split, train, test)
    assert np.unique(known_train.label).tolist() == [0, 1, 2]
    unknown_ids = all_test.example_id[all_test.is_unknown]
    assert set(unknown_ids.tolist()) == set(UNKNOWN)


@pytest.mark.parametrize("tested", [False, True])
def test_classes_held_out_play_the_unknown(tested, root, opened):
    in_test = {f"test/{name}/0.png" for name in CLASSES} if tested else set()
    write_images(root, *FLAT, *in_test, "unknown/0.png")
    source = opened(held_out_classes=("dog",))
    assert source.class_names == (*CLASSES, "unknown")
    assert source.own_split == (("cat", "emu"), ("dog", "unknown"))
    assert source.unknown_is_estimate
    train, test = source.load()
    dogs = {path for path in (*FLAT, *in_test) if "/dog/" in path}
    assert {name for path, name in names_of(source, train).items()} == {"cat", "emu"}
    named = names_of(source, test)
    assert {path for path, name in named.items() if name == "dog"} == dogs
    # All images of the class held out, the one of none, and those of the others.
    assert len(test) == len(dogs) + 1 + 2
    assert len(train) == (10 if tested else 8)
    split = open_set_split(source, "paper", 0)
    _, all_test = apply_split(source, split, train, test)
    assert all_test.is_unknown.sum() == len(dogs) + 1


def test_classes_to_hold_out_must_be_there(root, opened):
    write_images(root, *FLAT, "unknown/owl/0.png")
    for name in ("cow", "owl", "unknown/owl", "Dog"):
        with pytest.raises(PmalError, match=rf"'cat', 'dog', 'emu'.*{name!r}\. A name"):
            opened(held_out_classes=("dog", name))
    source = opened(held_out_classes=("dog", "emu"))
    with pytest.raises(PmalError, match="At least two classes must be known"):
        open_set_split(source, "paper", 0)


def test_names_may_be_anything_printable(root, opened):
    names = ("tea, green", "Äpfel und Öl", "日本", "a.b-c (1)", "-- x", "50%", "{x}")
    names += ("unknown bird", "test")
    paths = [f"train/{name}/Ein Bild, {n} ü.png" for name in names for n in range(2)]
    write_images(root, *paths, "unknown/ganz anders/é ü.png")
    source = opened()
    assert source.class_names == (*sorted(names), "unknown/ganz anders")
    train, test = source.load()
    named = {**names_of(source, train), **names_of(source, test)}
    assert set(named) == {*paths, "unknown/ganz anders/é ü.png"}
    assert all(path.split("/")[1] == named[path] for path in paths)


def test_folders_below_a_class_belong_to_it(root, opened):
    paths = ("train/cat/a/b/c/0.png", "train/cat/a/0.png", "train/cat/dog/0.png")
    write_images(root, *paths, "train/dog/0.png", "train/dog/1.jpg/2.png")
    source = opened()
    assert source.class_names == ("cat", "dog")
    named = {
        k: v for images in source.load() for k, v in names_of(source, images).items()
    }
    assert {path for path, name in named.items() if name == "cat"} == set(paths)
    assert {path for path, name in named.items() if name == "dog"} == {
        "train/dog/0.png",
        "train/dog/1.jpg/2.png",
    }


def test_images_go_by_their_suffix_in_either_case_and_other_files_are_counted(
    root, loaded, caplog
):
    suffixes = ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "gif", "PNG", "JPEG", "Jpg")
    paths = [f"train/cat/0.{suffix}" for suffix in suffixes]
    write_images(root, *paths, "train/dog/0.png", "train/dog/1.png", "unknown/0.png")
    others = ("train/cat/a.txt", "train/cat/b.TXT", "train/dog/x/c.webp", "unknown/d")
    hidden = ("train/.DS_Store", "train/cat/.0.png", ".git/0.png", "unknown/.a/0.png")
    for path in (*others, *hidden, "train/list.csv", "labels.csv"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("no image")
    train, test = loaded()
    assert ids(train) | ids(test) == {
        *(*paths, "train/dog/0.png", "train/dog/1.png", "unknown/0.png")
    }
    (message,) = messages(caplog)
    assert re.search(r"2 \.txt, 1 \.webp, 1 without suffix\.$", message)


def test_links_are_followed(root, tmp_path, opened):
    write_images(root, *FLAT)
    elsewhere = tmp_path / "elsewhere"
    write_images(elsewhere, "fox/0.png", "fox/1.png", "single.png", "other.png")
    (root / "train" / "fox").symlink_to(elsewhere / "fox")
    (root / "train" / "cat" / "linked.png").symlink_to(elsewhere / "single.png")
    os.link(elsewhere / "other.png", root / "train" / "dog" / "hard.png")
    source = opened()
    assert source.class_names == ("cat", "dog", "emu", "fox")
    train, test = source.load()
    assert ids(train) | ids(test) == {
        *(*FLAT, "train/fox/0.png", "train/fox/1.png"),
        *("train/cat/linked.png", "train/dog/hard.png"),
    }


def test_what_is_neither_file_nor_folder_is_passed_over(root, loaded):
    write_images(root, *FLAT)
    os.mkfifo(root / "train" / "cat" / "pipe.png")  # Reading it would never end.
    train, test = loaded()
    assert ids(train) | ids(test) == set(FLAT)


def test_nothing_depends_on_the_order_in_which_a_disk_lists_files(
    root, loaded, monkeypatch
):
    write_images(root, *FLAT, *UNKNOWN, *(f"test/{name}/0.png" for name in CLASSES))
    scandir = os.scandir

    def in_order(*, backwards):
        @contextlib.contextmanager
        def listing(path):
            with scandir(path) as entries:
                yield iter(sorted(entries, key=lambda e: e.name, reverse=backwards))

        return listing

    orders, prints = [], []
    for backwards in (False, True):
        monkeypatch.setattr(os, "scandir", in_order(backwards=backwards))
        orders.append([entry.path for entry in scan(root).entries])
        prints.append([images.fingerprint for images in loaded()])
    assert orders[0] == orders[1]
    assert prints[0] == prints[1]
    for side in ("train", "test", "unknown"):
        of_side = [path for path in orders[1] if path.startswith(side)]
        assert of_side == sorted(of_side)


def entries_of(side, name, count):
    return [ImageEntry(f"{side}/{name}/{n}.png", side, name) for n in range(count)]


@pytest.mark.parametrize(
    ("count", "held_out"),
    # A fifth of 7, 8, 13 and 99 is 1.4, 1.6, 2.6 and 19.8.
    [(1, 0), (2, 1), (3, 1), (7, 1), (8, 2), (10, 2), (13, 3), (99, 20), (1000, 200)],
)
def test_a_fifth_of_a_class_is_tested_on_and_one_of_two(count, held_out):
    entries = entries_of("train", "cat", count)
    assert len(held_out_paths(entries, ())) == held_out


def test_which_images_are_held_out_depends_on_the_paths_of_their_class_alone():
    cats, dogs = (entries_of("train", name, 40) for name in ("cat", "dog"))
    chosen = held_out_paths(cats, ())
    assert chosen == held_out_paths(cats[::-1], ())
    assert chosen | held_out_paths(dogs, ()) == held_out_paths([*dogs, *cats], ())
    unknown = entries_of("unknown", "owl", 3)
    with_unknown = held_out_paths([*cats, *unknown, *dogs], ("dog",))
    assert with_unknown == chosen | {entry.path for entry in (*unknown, *dogs)}
    # Neither the first nor the last, nor the same of every class.
    order = sorted(entry.path for entry in cats)
    assert chosen not in ({*order[:8]}, {*order[-8:]}, {*order[::5]})
    assert {p.split("/")[2] for p in chosen} != {
        p.split("/")[2] for p in held_out_paths(dogs, ())
    }
    # Other images held out than before would move images between two runs.
    ten = held_out_paths(entries_of("train", "cat", 10), ())
    assert ten == {"train/cat/3.png", "train/cat/5.png"}


def test_a_further_image_moves_at_most_one_other():
    for count in range(2, 60):
        before = held_out_paths(entries_of("train", "cat", count), ())
        after = held_out_paths(entries_of("train", "cat", count + 1), ())
        new = f"train/cat/{count}.png"
        assert len((before ^ after) - {new}) <= 1


def test_with_test_images_of_one_class_none_are_held_out_of_the_others():
    entries = [*entries_of("train", "cat", 10), *entries_of("train", "dog", 10)]
    tested = entries_of("test", "cat", 2)
    assert held_out_paths([*entries, *tested], ()) == {entry.path for entry in tested}


# Layouts that cannot be meant.


def test_a_data_dir_must_be_given():
    with pytest.raises(PmalError, match="`data_dir` must name the folder of images"):
        open_source("folder", SourceOptions())


def test_a_folder_that_is_missing_or_empty_is_an_error_that_names_it(root, opened):
    with pytest.raises(PmalError, match=rf"train/<class>.*{re.escape(str(root))}.*not"):
        opened()
    root.write_text("a file")
    with pytest.raises(PmalError, match="which is not a folder"):
        opened()
    root.unlink()
    root.mkdir()
    with pytest.raises(PmalError, match="which holds no folders"):
        opened()
    (root / "train").mkdir()
    with pytest.raises(PmalError, match=r"at least two classes.*\[\]"):
        opened()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("cat/0.png", "dog/0.png"), r"holds 'cat', 'dog'\. Move classes into train"),
        (("train/cat/0.png", "unknown/dog/0.png"), r"at least two classes.*\['cat'\]"),
        ((*FLAT, "train/a.PNG"), r"of train/ must be in the folder.*1 dir.*'a\.PNG'"),
        ((*FLAT, "test/cat/0.png", "test/a.gif"), "of test/ must be in the folder"),
        ((*FLAT, "train/fox/.hid.png", "train/fox/.a/0.png"), "none in '.*/train/fox'"),
        ((*FLAT, "train/Dog/0.png"), "upper and lower case.*'Dog' and 'dog'"),
        ((*FLAT, "test/DOG/0.png"), "upper and lower case.*'DOG' and 'dog'"),
        ((*FLAT, "train/unknown/0.png"), "may be named 'unknown'.*'unknown'"),
        ((*FLAT, "train/Unknown/0.png"), "may be named 'unknown'.*'Unknown'"),
        ((*FLAT, "test/UNKNOWN/0.png"), "may be named 'unknown'.*'UNKNOWN'"),
        ((*FLAT, "train/a\nb/0.png"), "must be printable"),
        ((*FLAT, "train/a\x1bb/0.png"), "must be printable"),
        ((*FLAT, "train/ cow/0.png"), "without spaces at their ends"),
        (
            (*FLAT, "test/cat/0.png", "test/owl/0.png", "test/fox/0.png"),
            "Received: 'fox', 'owl' in test/ alone",
        ),
    ],
)
def test_classes_that_cannot_be_meant_are_an_error(paths, message, root, opened):
    write_images(root, *paths)
    with pytest.raises(PmalError, match=message):
        opened()


@pytest.mark.parametrize("name", ["test", "unknown"])
@pytest.mark.parametrize("kind", ["file", "nowhere", "itself"])
def test_a_side_that_is_no_folder_is_an_error(root, opened, name, kind):
    write_images(root, *FLAT)
    if kind == "file":
        (root / name).touch()
    else:
        (root / name).symlink_to(name if kind == "itself" else kind)
    with pytest.raises(PmalError, match=rf"{name}', which is no folder"):
        opened()


def test_a_home_folder_may_be_written_as_a_tilde(root, monkeypatch, tmp_path):
    write_images(root, *FLAT)
    monkeypatch.setenv("HOME", str(root.parent))
    options = SourceOptions(
        data_dir=f"~/{root.name}", cache_dir=str(tmp_path / "cache"), image_size=SIZE
    )
    source = open_source("folder", options)
    assert sum(map(len, source.load())) == len(FLAT)


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_class_folder_without_images_is_an_error(side, root, opened):
    write_images(root, *FLAT)
    (root / side / "emu" / "below").mkdir(parents=True)
    for path in (root / side / "emu").glob("*.png"):
        path.unlink()
    (root / side / "emu" / "note.txt").touch()
    with pytest.raises(PmalError, match=rf"none in '.*/{side}/emu'"):
        opened()


def test_classes_that_look_the_same_are_an_error(root, opened):
    composed, taken_apart = (
        unicodedata.normalize(form, "träne") for form in ("NFC", "NFD")
    )
    write_images(root, *FLAT, f"train/{composed}/0.png")
    if (root / "train" / taken_apart).exists():
        pytest.skip("this file system does not tell the two apart")
    write_images(root, f"train/{taken_apart}/0.png")
    with pytest.raises(PmalError, match="Names of classes must differ"):
        opened()


LOOPS = {
    "to the root": ("train/cat/loop", "../.."),
    "to train": ("train/loop", "."),
    "to the class": ("train/cat/a/loop", ".."),
    "to itself as a class": ("train/loop", "loop"),
    "to itself as an image": ("train/cat/loop.png", "loop.png"),
    "of the unknown": ("unknown/a/loop", "../../unknown"),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_link_that_leads_back_is_an_error_that_names_it(loop, root, opened):
    write_images(root, *FLAT)
    path, target = LOOPS[loop]
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)
    # The link and not what it leads to; it is not gone round until the system gives up.
    named = f"the link '{re.escape(str(root / path))}(/loop)?', "
    with pytest.raises(PmalError, match=f"may not contain itself.*{named}"):
        opened()


@pytest.mark.parametrize("place", ["file", "class", "unknown"])
def test_names_that_are_not_utf_8_are_an_error_that_shows_them(place, root, opened):
    write_images(root, *FLAT, "unknown/0.png")
    raw = (
        os.fsencode(root)
        + {
            "file": b"/train/cat/caf\xe9.png",
            "class": b"/train/caf\xe9/0.png",
            "unknown": b"/unknown/caf\xe9/0.png",
        }[place]
    )
    try:
        os.makedirs(os.path.dirname(raw), exist_ok=True)
        with open(raw, "wb"):
            pass
    except OSError:
        pytest.skip("this file system refuses such names")
    with pytest.raises(PmalError, match=r"must be valid UTF-8.*caf\\xe9") as caught:
        opened()
    str(caught.value).encode()  # It can be printed.


def test_other_files_whose_names_are_not_utf_8_do_no_harm(root, loaded, caplog):
    write_images(root, *FLAT)
    try:
        with open(os.fsencode(root) + b"/train/cat/note.\xe9", "wb"):
            pass
    except OSError:
        pytest.skip("this file system refuses such names")
    loaded()
    (message,) = messages(caplog)
    assert message.endswith(r": 1 .\xe9.")


# Images that cannot be read.


def png_of_size(width, height):
    header = struct.pack(">II", width, height) + b"\x08\x02\0\0\0"
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + header + checksum


def overwritten(contents):
    middle = len(contents) // 2
    return contents[: middle - 8] + bytes(16) + contents[middle + 8 :]


BAD_FILES = {
    "train/cat/cut off.png": (lambda good: good[:-30], "damaged, cut off"),
    "train/cat/corrupt.png": (overwritten, "damaged, cut off"),
    "train/dog/empty.jpg": (lambda good: b"", "the file is empty"),
    "train/dog/text.jpg": (lambda good: b"some text", "not a JPEG, PNG, BMP or GIF"),
    "train/emu/large.png": (
        lambda good: png_of_size(30_000, 20_000),
        r"declares 30,000 x 20,000 pixels; at most 67,108,864",
    ),
    "unknown/jpeg cut in its header.jpg": (
        lambda good: b"\xff\xd8\xff\xe0\0\x10JFIF",
        "damaged, cut off",
    ),
}
BROKEN_LINK = "unknown/broken link.png"


@pytest.fixture
def bad_folder(root):
    """A folder with sound images and seven that cannot be read."""
    write_images(root, *FLAT, "unknown/sound.png")
    for path, (damage, _) in BAD_FILES.items():
        write_images(root, path)
        (root / path).write_bytes(damage((root / path).read_bytes()))
    (root / BROKEN_LINK).symlink_to("nowhere.png")
    return root


def assert_every_reason(text):
    for path, (_, reason) in BAD_FILES.items():
        assert re.search(rf"^  {re.escape(path)}: .*{reason}", text, re.MULTILINE)
    assert re.search(rf"^  {BROKEN_LINK}: it cannot be opened: No such", text, re.M)


def test_unreadable_images_are_all_listed_with_the_reason_and_counted(
    bad_folder, opened, tmp_path, caplog
):
    source = opened(max_unreadable=6)  # The layout is sound.
    with pytest.raises(PmalError, match=r"(?s)At most 6 .*Received: 7\.") as caught:
        source.load()
    assert_every_reason(str(caught.value))
    assert "--max_unreadable=7" in str(caught.value)
    assert "sound" not in str(caught.value)
    assert stores_in(tmp_path / "cache") == []
    source = opened(max_unreadable=7)
    named = {
        k: v for images in source.load() for k, v in names_of(source, images).items()
    }
    assert named == {
        **{path: path.split("/")[1] for path in FLAT},
        "unknown/sound.png": "unknown",
    }
    (message,) = messages(caplog)
    assert message.startswith("Passed over 7 unreadable files:\n")
    assert_every_reason(message)
    # That they are decoded by now does not make the others acceptable.
    with pytest.raises(PmalError, match="Received: 7"):
        opened(max_unreadable=6).load()


def test_of_many_unreadable_images_fifty_are_listed(root, loaded):
    write_images(root, *FLAT)
    for n in range(53):
        (root / "train" / "cat" / f"empty_{n:02}.png").touch()
    with pytest.raises(PmalError, match=r"Received: 53\.") as caught:
        loaded()
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 50 + 1
    assert lines[1:51] == [
        f"  train/cat/empty_{n:02}.png: the file is empty" for n in range(50)
    ]
    assert lines[51] == "  and 3 more"


def test_an_image_that_only_now_can_be_read_is_read(root, loaded):
    # As after a lack of permission: neither size nor time of the file change. This is
    # what the message "it can be now; run again" promises.
    write_images(root, *FLAT)
    path = root / FLAT[3]
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes(len(whole)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    loaded(max_unreadable=1)
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    train, test = loaded(max_unreadable=1)
    assert ids(train) | ids(test) == set(FLAT)


@pytest.fixture
def streams(monkeypatch):
    """Each reading of the files."""
    streams, stream = [], folder_module._stream
    monkeypatch.setattr(
        folder_module, "_stream", lambda *a: streams.append(a) or stream(*a)
    )
    return streams


def test_images_are_decoded_once_until_one_of_them_changes(root, loaded, streams):
    write_images(root, *FLAT)
    loaded()
    loaded(held_out_classes=("dog",))
    assert len(streams) == 1
    Image.fromarray(255 - pixels_of(FLAT[0])).save(root / FLAT[0])
    os.utime(root / FLAT[0], ns=(1, 1))
    train, test = loaded()
    assert len(streams) == 2
    images = train.followed_by(test)
    (row,) = np.flatnonzero(images.example_id == FLAT[0])
    np.testing.assert_array_equal(images.image[row], 255 - pixels_of(FLAT[0]))
    write_images(root, "train/cat/new.png")
    assert "train/cat/new.png" in set.union(*map(ids, loaded()))
    (root / "train/cat/new.png").unlink()
    assert set.union(*map(ids, loaded())) == set(FLAT)
    assert len(streams) == 4


def test_two_folders_of_one_name_are_kept_apart(root, tmp_path, opened):
    write_images(root, *FLAT)
    other = tmp_path / "elsewhere" / root.name
    write_images(other, *FLAT)
    Image.new("RGB", (SIZE, SIZE), "red").save(other / FLAT[0])
    options = {"cache_dir": str(tmp_path / "cache"), "image_size": SIZE}
    opened().load()
    open_source("folder", SourceOptions(data_dir=str(other), **options)).load()
    source = opened()
    for images in source.load():
        names_of(source, images)
    assert len(stores_in(tmp_path / "cache")) == 2


def test_the_usual_size_is_64_pixels(root, loaded):
    write_images(root, *FLAT[:2], *FLAT[-2:])
    train, _ = loaded(image_size=0)
    assert train.image.shape == (2, 64, 64, 3)


def save_with_orientation(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    gradient = np.zeros((8, 16, 3), np.uint8) + np.arange(0, 256, 16)[:, None]
    Image.fromarray(gradient.astype(np.uint8)).save(path, "JPEG", exif=exif)


def test_orientation_tags_are_ignored_and_counted(root, loaded, caplog):
    write_images(root, *FLAT)
    for name, orientation in (("1.jpg", 1), ("3.jpg", 3), ("6.JPEG", 6), ("8.jpe", 8)):
        save_with_orientation(root / "train" / "cat" / f"turned_{name}", orientation)
    images = loaded()
    turned = [
        image
        for part in images
        for path, image in zip(part.example_id, part.image[:], strict=True)
        if "turned" in path
    ]
    assert len(turned) == 4
    for image in turned:
        np.testing.assert_array_equal(image, turned[0])
    (message,) = messages(caplog)
    assert message.startswith("3 of 19 images have an EXIF orientation")


def test_preparing_a_folder_says_what_is_in_it(root, tmp_path):
    write_images(root, *FLAT)
    options = SourceOptions(data_dir=str(root), cache_dir=str(tmp_path / "cache"))
    line = "3 classes, 12 images to train on and 3 to test on; nothing to download"
    assert DATASETS[0].prepare(options) == f"{root}: {line}"


def test_the_split_of_a_folder_is_described(root, tmp_path):
    write_images(root, *FLAT)
    values = {"data_dir": str(root), "cache_dir": str(tmp_path / "cache")}
    settings = DataSettings(dataset="folder", **values)
    assert describe_splits(settings).splitlines() == [
        "folder folder trial 0: openness 0.0000",
        "  known:   cat, dog, emu",
        "  unknown: none",
        "  images:  12 training, 3 known test, 0 unknown test",
    ]
    with pytest.raises(PmalError, match="leave --protocol at its default"):
        describe_splits(dataclasses.replace(settings, protocol="neal"))


# Whole experiments.

COLOURS = {"rot": (210, 40, 40), "tea, green": (40, 200, 60), "青": (40, 60, 210)}
KNOWN = sorted(COLOURS)


def write_squares(folder, colour, count):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(colour)
    for n in range(count):
        noise = generator.normal(0, 15, (12, 10, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"square {n}.png")


class Run:
    """An experiment on a folder of images, and what it left."""

    def __init__(self, folder, **changes):
        self.folder = folder
        self.table = run_experiment(
            tiny(
                folder,
                **{
                    "dataset": "folder",
                    "calibration_fraction": -1.0,
                    "data_dir": str(folder / "images"),
                    "cache_dir": str(folder / "cache"),
                    "protocol": "paper",
                    "image_size": 8,
                    "epochs": 1,
                    "compare": (),
                    "tensorboard": False,
                    "prototypes_per_class": 2,
                    **changes,
                },
            )
        )
        self.result, self.data, self.calibration = (
            json.loads((trial_folder(folder) / f"{name}.json").read_text())
            for name in ("result", "data", "calibration")
        )
        experiment = folder / "runs" / "tiny"
        assert self.table.startswith((experiment / "summary.md").read_text())
        self.summary = json.loads((experiment / "summary.json").read_text())

    def assert_served(self, known):
        """Checks what the exported model calls the classes."""
        exported = self.folder / "saved_models" / "tiny" / "trial_0" / "1"
        facts = json.loads((exported / "metadata.json").read_text())
        assert facts["class_names"] == known
        serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
        colours = np.array(list(COLOURS.values()), np.float32)
        images = np.broadcast_to(colours[:, None, None], (len(colours), 9, 7, 3))
        answers = {k: v.numpy() for k, v in serve(images=tf.constant(images)).items()}
        assert answers["distance"].shape == (len(colours), len(known))
        for class_id, name in zip(
            answers["class_id"], answers["class_name"], strict=True
        ):
            expected = known[class_id] if class_id >= 0 else "unknown"
            assert name.decode() == expected
        assert all(path.startswith(b"train/") for path in answers["nearest_prototype"])


HELD_OUT = "gelb, hell"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """An experiment with three known classes, one held out, and unknown images."""
    folder = tmp_path_factory.mktemp("experiment")
    for name, colour in {**COLOURS, HELD_OUT: (220, 220, 40)}.items():
        write_squares(folder / "images" / "train" / name, colour, 15)
    write_squares(folder / "images" / "unknown" / "grau", (128, 128, 128), 6)
    return Run(folder, held_out_classes=(HELD_OUT,))


def test_an_experiment_on_a_folder_with_a_class_held_out(finished_run):
    result, data = finished_run.result, finished_run.data
    assert (result["dataset"], result["protocol"]) == ("folder", "folder")
    assert (result["known"], result["unknown"]) == (KNOWN, [HELD_OUT, "unknown/grau"])
    assert result["unknown_is_estimate"]
    # A tenth of 36 training images, 3 or 4, is withheld to set thresholds on.
    withheld = data["calibration"]["images"]
    assert withheld in (3, 4)
    assert data["training"]["images"] == 36 - withheld
    assert (data["test"]["known"], data["test"]["unknown"]) == (3 * 3, 15 + 6)
    calibration = finished_run.calibration
    assert calibration["calibration_images"] == withheld
    assert calibration["measured_images"] == 9
    assert "withheld" in calibration["source"]
    assert calibration["rules"]["dr"]["unknown_rejected"] is not None
    folder = trial_folder(finished_run.folder)
    with np.load(folder / "scores.npz") as scores:
        auroc = roc_auc_score(scores["is_unknown"], scores["dr"])
    assert result["models"]["pmal"]["dr"]["auroc"] == pytest.approx(auroc)
    assert "classes held out of the known ones" in finished_run.table
    assert "estimate" in finished_run.table
    assert "not measured" not in finished_run.table
    finished_run.assert_served(KNOWN)
    assert f'--held_out_classes="{HELD_OUT}"\n' in (folder / "flags.txt").read_text()


def test_withheld_images_are_in_no_training_stage(finished_run):
    folder = trial_folder(finished_run.folder)
    with np.load(folder / "scores_calibration.npz") as scores:
        withheld = set(scores["example_id"])
        assert set(scores["class_index"]) == {0, 1, 2}
    with np.load(folder / "mining" / "robustness.npz") as mined:
        trained = set(mined["example_id"])
    with np.load(folder / "scores.npz") as scores:
        tested = set(scores["example_id"])
    assert len(withheld) in (3, 4)
    assert not withheld & trained
    assert not withheld & tested
    assert len(trained) == 36 - len(withheld)


def test_an_experiment_on_a_folder_without_unknown_images(tmp_path):
    for name, colour in {**COLOURS, HELD_OUT: (220, 220, 40)}.items():
        write_squares(tmp_path / "images" / "train" / name, colour, 15)
    with quick_stages():
        run = Run(tmp_path)
    assert not run.result["unknown_is_estimate"]
    assert "estimate" not in run.table
    known = sorted([*COLOURS, HELD_OUT])
    assert (run.result["known"], run.result["unknown"]) == (known, [])
    assert run.result["openness"] == 0.0
    assert (run.data["test"]["known"], run.data["test"]["unknown"]) == (12, 0)
    with np.load(trial_folder(tmp_path) / "scores.npz") as scores:
        accuracy = np.mean(scores["predicted"] == scores["class_index"])
    assert run.result["models"]["pmal"]["acc"] == pytest.approx(accuracy)
    for metrics in run.result["models"].values():
        assert [metrics[rule] for rule in ("dr", "pr", "mls")] == [None] * 3
    for rule in run.calibration["rules"].values():
        assert np.isfinite(rule["threshold"])
        assert rule["unknown_rejected"] is None
    assert "There are no unknown images, so rejection was not measured." in run.table
    assert re.search(r"PMAL +\| +\d+\.\d +\| +- +\|", run.table)
    assert run.summary["models"]["pmal"]["dr.auroc"] is None


def test_folders_that_are_not_read_are_named(root, loaded, caplog):
    write_images(root, *FLAT)
    for name in ("Test", "unkown", ".git"):
        (root / name).mkdir()
    loaded()
    assert "Only train/, test/ and unknown/ are read" in caplog.text
    assert "'Test', 'unkown'" in caplog.text
    assert ".git" not in caplog.text


@pytest.fixture
def trial(root, tmp_path):
    """Opens the images of a trial, as each command does."""

    def open_trial(seed=3, **changes):
        values = {"data_dir": str(root), "cache_dir": str(tmp_path / "cache")}
        settings = DataSettings(dataset="folder", image_size=SIZE, **values, **changes)
        return TrialImages(settings, 0, seed, tmp_path / "trial")

    return open_trial


def prints_of(images):
    parts = ("training", "test", "calibration")
    return {part: images.fingerprint(part) for part in parts}


def test_images_are_known_by_their_record_until_a_file_changes(
    root, trial, monkeypatch
):
    write_images(root, *FLAT, "unknown/0.png")
    first = trial()
    prints = prints_of(first)
    assert len(set(prints.values())) == 3
    first.write_record()
    scans = []
    monkeypatch.setattr(folder_module, "scan", lambda *a: scans.append(a) or scan(*a))
    for images in (trial(), trial(seed=4), trial(calibration_fraction=0.5)):
        same = images.settings == first.settings and images.run_seed == 3
        assert (prints_of(images) == prints) is same
        assert ("_parts" in vars(images)) is not same  # Only others are read.
    assert len(scans) == 3
    # Other times, but the same images.
    os.utime(root / FLAT[0], ns=(1, 1))
    touched = trial()
    assert prints_of(touched) == prints
    assert "_parts" in vars(touched)
    write_images(root, "unknown/1.png")
    more = prints_of(trial())
    assert {part for part in prints if more[part] != prints[part]} == {"test"}
    (root / "unknown/1.png").unlink()
    path = trial().train.example_id[0]
    before = (root / path).read_bytes()
    Image.fromarray(255 - pixels_of(path)).save(root / path)
    other = prints_of(trial())
    assert {part for part in prints if other[part] != prints[part]} == {"training"}
    (root / path).write_bytes(before)
    assert prints_of(trial()) == prints


def test_a_folder_chooses_its_unknown_classes_by_holding_out(root, opened):
    write_images(root, *FLAT)
    with pytest.raises(PmalError, match="--held_out_classes"):
        open_set_split(opened(), "paper", 0, ["cat", "dog"])


def test_unreadable_images_leave_no_run_folder(tmp_path):
    for name, colour in COLOURS.items():
        write_squares(tmp_path / "images" / "train" / name, colour, 3)
    (tmp_path / "images" / "train" / "rot" / "broken.png").write_bytes(b"no image")
    with pytest.raises(PmalError, match=r"broken\.png"):
        Run(tmp_path)
    assert stores_in(tmp_path / "cache") == []
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*"))


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("test", "train"),
        ("unknown/cats", "train/cat"),
        ("train/fox", "train/dog"),
        ("train/cat/0.png", FLAT[-1]),
    ],
)
def test_a_file_of_two_sides_or_classes_is_an_error(root, opened, link, target):
    write_images(root, *FLAT)
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).unlink(missing_ok=True)
    (root / link).symlink_to(root / target)
    with pytest.raises(PmalError, match="of one class and one side only"):
        opened()


def test_the_same_folder_by_another_path_is_not_decoded_again(
    root, opened, streams, tmp_path
):
    write_images(root, *FLAT)
    (tmp_path / "link").symlink_to(root)
    for data_dir in (root, tmp_path / "link", f"{root}/"):
        opened(data_dir=str(data_dir)).load()
    assert len(streams) == 1

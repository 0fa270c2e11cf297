import concurrent.futures
import dataclasses
import io
import os
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pmal_tf.data.decoding import decode_once as module
from pmal_tf.data.decoding.decode_once import EncodedImages
from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.runtime.errors import PmalError

SIZE = 5
# More than one batch of 64, and no whole number of them.
COUNT = 70


def make_pixels(count=COUNT, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Files:
    """Image files in memory that count how often they are streamed."""

    def __init__(self, contents):
        self.contents = contents
        self.streamed = 0

    def stream(self):
        self.streamed += 1
        numbers = range(len(self.contents))
        return tf.data.Dataset.from_tensor_slices(
            {
                "contents": tf.constant(self.contents),
                "label": tf.constant([n % 7 for n in numbers], tf.int64),
                "example_id": tf.constant([f"bild_{n}_ä" for n in numbers]),
            }
        )

    def encoded(self, provenance="v1", name="toy"):
        return EncodedImages(name, len(self.contents), SIZE, self.stream, provenance)


def decode_once(encoded, size, cache, check=None):
    encoded = dataclasses.replace(encoded, size=size, check_readable=check)
    return module.decode_once(encoded, cache)


@pytest.fixture
def pixels():
    return make_pixels()


@pytest.fixture
def files(pixels):
    return Files([png(image) for image in pixels])


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "of images"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A folder with the store of the files; tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("made once")
    files = Files([png(image) for image in make_pixels()])
    decode_once(files.encoded(), SIZE, str(folder))
    return folder


def assert_decoded(images, pixels, kept=slice(None)):
    numbers = np.arange(len(pixels))[kept]
    assert isinstance(images.image, StoredImages)
    np.testing.assert_array_equal(images.image[:], pixels[kept])
    np.testing.assert_array_equal(images.label, numbers % 7)
    assert images.label.dtype == np.int32
    assert images.example_id.tolist() == [f"bild_{n}_ä" for n in numbers]


def names_in(folder):
    """What is in a folder, but for the files that processes lock."""
    return sorted(p.name for p in folder.glob("*") if p.suffix != ".lock")


def test_images_are_decoded_in_order_and_once(files, pixels, cache):
    first = decode_once(files.encoded(), SIZE, str(cache))
    assert_decoded(first, pixels)
    assert names_in(cache) == ["toy_5"]
    again = decode_once(files.encoded(), SIZE, str(cache))
    assert files.streamed == 1
    assert_decoded(again, pixels)
    assert again.fingerprint == first.fingerprint


def test_other_files_are_decoded_anew(files, cache):
    first = decode_once(files.encoded(), SIZE, str(cache))
    others = make_pixels(COUNT - 1, seed=1)
    changed = Files([png(image) for image in others])
    images = decode_once(changed.encoded(provenance="v2"), SIZE, str(cache))
    assert changed.streamed == 1
    assert_decoded(images, others)
    assert images.image.fingerprint != first.image.fingerprint
    assert names_in(cache) == ["toy_5"]
    # Whoever read the old ones goes on to do so.
    assert_decoded(first, make_pixels())


def test_a_new_decoder_decodes_anew(files, cache, monkeypatch):
    decode_once(files.encoded(), SIZE, str(cache))
    monkeypatch.setattr(module, "_DECODER", module._DECODER + 1)
    decode_once(files.encoded(), SIZE, str(cache))
    assert files.streamed == 2


def test_sizes_and_names_are_kept_beside_each_other(files, pixels, cache):
    for size in (SIZE, 3, SIZE, 3):
        images = decode_once(files.encoded(), size, str(cache))
        assert images.image.shape == (COUNT, size, size, 3)
    assert files.streamed == 2
    assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
    decode_once(files.encoded(name="other"), SIZE, str(cache))
    assert files.streamed == 3
    assert names_in(cache) == ["other_5", "toy_3", "toy_5"]


def cut(path, by=1):
    os.truncate(path, path.stat().st_size - by)


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "pixels cut off": lambda store: cut(store / "pixels.bin"),
    "pixels of one image less": lambda store: cut(store / "pixels.bin", 75),
    "pixels overwritten": lambda store: overwrite(store / "pixels.bin"),
    "pixels too long": lambda store: os.truncate(store / "pixels.bin", 99_999),
    "no pixels": lambda store: (store / "pixels.bin").unlink(),
    "no labels": lambda store: (store / "examples.npz").unlink(),
    "labels cut off": lambda store: cut(store / "examples.npz", 100),
    "labels empty": lambda store: os.truncate(store / "examples.npz", 0),
    "no key": lambda store: np.savez(store / "examples.npz", label=[1], digest=[2]),
    "another file": lambda store: (store / "examples.npz").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_made_anew(damage, files, pixels, cache, made_once):
    shutil.copytree(made_once, cache)
    assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
    assert files.streamed == 0
    DAMAGES[damage](cache / "toy_5")
    for _ in range(2):
        assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
        assert files.streamed == 1


@pytest.fixture
def damaged(files):
    """Files of which two cannot be decoded."""
    files.contents[3] = files.contents[3][:-20]
    files.contents[66] = b"no image"
    return files


def test_images_that_cannot_be_decoded_are_passed_over(damaged, pixels, cache):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_once(damaged.encoded(), SIZE, str(cache))
    assert names_in(cache) == []
    damaged.streamed, seen = 0, []
    kept = np.delete(np.arange(COUNT), [3, 66])
    for calls in (1, 2):
        images = decode_once(
            damaged.encoded(),
            SIZE,
            str(cache),
            lambda readable: seen.append(readable) or True,
        )
        assert_decoded(images, pixels, kept)
        # Also of a store: how many may be missing can be another number by now.
        assert len(seen) >= calls
    for readable in seen:
        assert readable.tolist() == [f"bild_{n}_ä" for n in kept]
    assert damaged.streamed == 1


def test_a_store_that_lacks_what_can_be_read_by_now_is_made_anew(damaged, cache):
    decode_once(damaged.encoded(), SIZE, str(cache), lambda readable: True)
    decode_once(damaged.encoded(), SIZE, str(cache), lambda readable: False)
    assert damaged.streamed == 2


def test_nothing_is_stored_where_too_few_can_be_decoded(damaged, cache):
    def refuse(readable):
        raise PmalError(f"only {len(readable)}")

    with pytest.raises(PmalError, match=r"^only 68$"):
        decode_once(damaged.encoded(), SIZE, str(cache), refuse)
    assert names_in(cache) == []
    # A store that was made under other terms is refused and kept.
    decode_once(damaged.encoded(), SIZE, str(cache), lambda readable: True)
    with pytest.raises(PmalError, match=r"^only 68$"):
        decode_once(damaged.encoded(), SIZE, str(cache), refuse)
    assert names_in(cache) == ["toy_5"]
    assert damaged.streamed == 2


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interruption_leaves_nothing_behind(failure, files, cache, monkeypatch):
    def interrupted(*args, **kwargs):
        raise failure

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(failure):
        decode_once(files.encoded(), SIZE, str(cache))
    assert names_in(cache) == []


def test_a_sound_store_outlives_a_failure_to_replace_it(files, pixels, cache):
    decode_once(files.encoded(), SIZE, str(cache))
    broken = Files([b"no image"])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_once(broken.encoded(provenance="v2"), SIZE, str(cache))
    assert names_in(cache) == ["toy_5"]
    assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
    assert files.streamed == 1


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_that_cannot_be_made_is_an_error_with_the_way_out(
    below, files, tmp_path
):
    # Not taken from root by its permissions, which would stop nobody.
    (tmp_path / "file").write_text("kept")
    cache = tmp_path / "file" / below
    with pytest.raises(PmalError, match=f"{re.escape(str(cache))}.*--cache_dir"):
        decode_once(files.encoded(), SIZE, str(cache))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("spare", [-1, 0])
def test_too_little_room_is_noticed_before_anything_is_decoded(
    spare, files, pixels, cache, monkeypatch
):
    # 130,000 * 224 * 224 * 3 = 19,568,640,000.
    usage = namedtuple("usage", "free")(19_568_640_000 + spare)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    many = EncodedImages("toy", 130_000, 224, files.stream, "v1")
    if spare < 0:
        with pytest.raises(
            PmalError, match=rf"need 19\.6 GB.*{cache} with 19\.6 GB.*--cache_dir"
        ):
            decode_once(many, 224, str(cache))
        assert files.streamed == 0
        assert names_in(cache) == []
    else:
        assert len(decode_once(many, 224, str(cache))) == COUNT


def test_of_two_that_need_the_same_images_one_decodes(
    files, pixels, cache, monkeypatch
):
    stream, others = files.stream, []

    def stream_while_another_asks():
        others.append(pool.submit(decode_once, files.encoded(), SIZE, str(cache)))
        assert not concurrent.futures.wait(others, timeout=0.2).done
        return stream()

    monkeypatch.setattr(files, "stream", stream_while_another_asks)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
        assert_decoded(others[0].result(), pixels)
    assert files.streamed == len(others) == 1
    assert names_in(cache) == ["toy_5"]


def test_what_an_ended_process_left_half_written_is_removed(files, pixels, cache):
    # A process that was killed cannot clean up, and the pixels may be 20 GB.
    half = cache / "writing_toy_5"
    half.mkdir(parents=True)
    (half / "pixels.bin").write_bytes(bytes(1000))
    assert_decoded(decode_once(files.encoded(), SIZE, str(cache)), pixels)
    assert names_in(cache) == ["toy_5"]


def test_the_default_folder_is_that_of_the_desktop_standard(
    files, pixels, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("caches", "caches"), ("", ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", variable and str(tmp_path / variable))
        assert_decoded(decode_once(files.encoded(), SIZE, ""), pixels)
        assert names_in(tmp_path / folder / "pmal_tf") == ["toy_5"]


def test_progress_is_shown_when_it_takes_long(files, cache, capfd, monkeypatch):
    decode_once(files.encoded(), SIZE, str(cache))
    assert "Decoding" not in capfd.readouterr().err
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    decode_once(files.encoded(name="again"), SIZE, str(cache))
    assert f"Decoding again: 100%|██████████| {COUNT}/{COUNT}" in capfd.readouterr().err

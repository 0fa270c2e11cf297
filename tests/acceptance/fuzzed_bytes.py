"""Can bytes be found that a served model answers wrongly, or dies of?

    python tests/acceptance/fuzzed_bytes.py [--count=10000] [--seed=0]
        [--saved_model=saved_models/mine/trial_0/1] [--keep=DIR]

Makes hostile files (see `hostile_bytes.py`) and sends them to `serving_bytes` in
batches of 1, 7, 32 and 300, and once all in one. Whether each can be read is asked of
`decode_image`, one at a time; what it gives, sent to `serving_images`, must get the
same answer as the file. All that cannot be read must be unknown. It runs in a process
of its own. Before each batch is sent it is written to DIR/batch.zip, so that what kills
the process, or is answered wrongly, can be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

BATCH_SIZES = (1, 7, 32, 300)
CLOSE = 1e-5
# One in so many sound files is sent alone, too.
ALONE = 20
GIGABYTE = 2**20  # In the kilobytes that `resource` counts in.

Answers = dict[str, np.ndarray]
# The decoded image of each file, None where there is none.
Images = list[np.ndarray | None]
Result = TypeVar("Result")


def main(
    count: int, seed: int, saved_model: Path | None = None, keep: Path | None = None
) -> str:
    """Runs the proof in a process of its own; returns what it printed.

    Raises:
        AssertionError: If it died or an answer was wrong.
    """
    keep = keep or Path(tempfile.mkdtemp(prefix="fuzzed_bytes_"))
    keep.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--worker", f"--keep={keep}"]
    command += [f"--count={count}", f"--seed={seed}"]
    if saved_model:
        command.append(f"--saved_model={saved_model}")
    printed = []
    # What TensorFlow says on stderr is shown if it comes to that.
    with (
        (keep / "stderr.txt").open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if process.returncode != 0:
        print((keep / "stderr.txt").read_text()[-3000:])
        print(f"Ended with {process.returncode}; seed {seed}; see {keep}/batch.zip.")
    assert process.returncode == 0
    return "".join(printed)


def work(count: int, seed: int, saved_model: Path | None, keep: Path) -> None:
    """Sends all files, checks all answers, and prints what was found."""
    import tensorflow as tf
    from hostile_bytes import hostile_files
    from untrained_model import export_untrained

    if saved_model is None:
        shutil.rmtree(keep / "untrained", ignore_errors=True)
        saved_model = export_untrained(keep / "untrained" / "1")
    loaded = tf.saved_model.load(str(saved_model))
    side = json.loads((saved_model / "metadata.json").read_text())["image_size"]
    made = hostile_files(count, seed)
    files = [file for _, file in made]
    size = sum(map(len, files)) / 2**20
    print(f"{count} files, {size:.0f} MB, seed {seed}; peak memory {peak():.2f} GB")
    images = timed(
        "decoded one by one", lambda: [decoded(file, side) for file in files]
    )
    report([mutation for mutation, _ in made], images)
    short = timed("served in batches", lambda: served_in_batches(loaded, files, keep))
    whole = timed("served in one batch", lambda: served(loaded, files, keep))
    readable = [place for place, image in enumerate(images) if image is not None]
    expected = served_images(loaded, [images[place] for place in readable])
    for answers in (short, whole):
        check_all(answers, images)
        compare(rows(answers, readable), expected)
    for place in readable[::ALONE]:
        alone = served(loaded, files[place : place + 1], keep)
        compare(rows(short, [place]), alone)
        compare(rows(whole, [place]), alone)
    print(f"{len(readable[::ALONE])} readable ones were also sent alone.")
    print(f"No crash, no wrong answer; peak memory {peak():.2f} GB.")


def peak() -> float:
    """Returns the most memory that the process has held, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIGABYTE


def timed(what: str, function: Callable[[], Result]) -> Result:
    """Calls a function; prints its time, and the most memory held until then."""
    start = time.monotonic()
    result = function()
    seconds = time.monotonic() - start
    print(f"{what} in {seconds:.0f} s; peak memory {peak():.2f} GB", flush=True)
    return result


def decoded(file: bytes, side: int) -> np.ndarray | None:
    """Decodes a file by itself; returns None where that is an error."""
    import tensorflow as tf

    from pmal_tf.data.decoding.decode import decode_image

    try:
        return decode_image(tf.constant(file), side).numpy()
    except tf.errors.OpError:
        return None


def report(mutations: list[str], images: Images) -> None:
    """Prints how many files of every mutation can be read."""
    made = Counter(mutations)
    read = Counter(
        mutation
        for mutation, image in zip(mutations, images, strict=True)
        if image is not None
    )
    for mutation, count in sorted(made.items()):
        unread = count - read[mutation]
        print(f"{mutation:26} {read[mutation]:5} readable {unread:5} not")
    print(f"{'all':26} {read.total():5} readable {made.total() - read.total():5} not")


def served_in_batches(loaded: Any, files: list[bytes], keep: Path) -> Answers:
    """Sends files in batches of all lengths in turn."""
    parts, start = [], 0
    while start < len(files):
        size = BATCH_SIZES[len(parts) % len(BATCH_SIZES)]
        parts.append(served(loaded, files[start : start + size], keep))
        start += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def served(loaded: Any, files: list[bytes], keep: Path) -> Answers:
    """Sends one batch, which is written down before."""
    import tensorflow as tf

    with zipfile.ZipFile(keep / "batch.zip", "w") as archive:
        for place, file in enumerate(files):
            archive.writestr(f"{place:05}", file)
    outputs = loaded.signatures["serving_bytes"](
        image_bytes=tf.constant(files, tf.string)
    )
    return {name: value.numpy() for name, value in outputs.items()}


def served_images(loaded: Any, images: list[np.ndarray]) -> Answers:
    """Sends decoded images."""
    import tensorflow as tf

    pixels = tf.constant(np.stack(images), tf.float32)
    outputs = loaded.signatures["serving_images"](images=pixels)
    return {name: value.numpy() for name, value in outputs.items()}


def rows(answers: Answers, places: list[int]) -> Answers:
    """Returns some answers of a batch."""
    return {name: value[places] for name, value in answers.items()}


def check_all(answers: Answers, images: Images) -> None:
    """Checks what must be true of every answer by itself.

    Raises:
        AssertionError: If it is not.
    """
    for name, value in answers.items():
        assert len(value) == len(images), name
        assert value.dtype.kind != "f" or np.isfinite(value).all(), name
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, atol=CLOSE)
    readable = np.array([image is not None for image in images])
    wrong = np.flatnonzero((answers["error"] == b"") != readable)
    assert not wrong.size, f"wrongly read, or wrongly not: files {wrong.tolist()}"
    assert (answers["nearest_prototype"][readable] != b"").all()
    unread = rows(answers, np.flatnonzero(~readable).tolist())
    classes = unread["probabilities"].shape[1]
    assert (unread["class_id"] == -1).all()
    assert (unread["class_name"] == b"unknown").all()
    assert unread["is_unknown"].all()
    # The largest score of the rule dr, and the largest distance.
    assert (unread["unknown_score"] == 2).all()
    assert (unread["distance"] == 2).all()
    np.testing.assert_allclose(unread["probabilities"], 1 / classes, atol=CLOSE)
    assert (unread["nearest_prototype"] == b"").all()


def compare(answers: Answers, expected: Answers) -> None:
    """Checks that answers are the expected ones.

    Raises:
        AssertionError: If one is not.
    """
    for name, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(answers[name], value, atol=CLOSE, err_msg=name)
        else:
            np.testing.assert_array_equal(answers[name], value, err_msg=name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--saved_model", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--worker", action="store_true")
    given = vars(parser.parse_args())
    (work if given.pop("worker") else main)(**given)

"""TinyImageNet's size and layout without TinyImageNet: counts, speed and memory.

    TFDS_DATA_DIR=... python tests/acceptance/tiny_imagenet_at_full_size.py --out=DIR

Writes a zip of the official layout with 100,000 training, 10,000 validation and 10,000
test JPEGs of 64 pixels, CIFAR-10 photographs enlarged, so the classes mean nothing;
prepares it; prints the splits, which must count 10,000, 1,000 and 9,000 images in every
trial; and runs the input benchmark, whose peak memory must stay bounded.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from PIL import Image

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import open_source
from pmal_tf.data.tiny_imagenet import WNIDS

TOP = "tiny-imagenet-200"
COUNTS = "10,000 training, 1,000 known test, 9,000 unknown test"


def write_zip(path: Path, per_class: int, val_per_class: int) -> None:
    """Writes a zip of the official layout."""
    train, test = open_source("cifar10", SourceOptions()).load()

    def jpeg(pixels: object) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((64, 64)).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{TOP}/wnids.txt", "\n".join(reversed(WNIDS)) + "\n")
        words = "".join(f"{wnid}\tname of {wnid}\n" for wnid in WNIDS)
        archive.writestr(f"{TOP}/words.txt", words)
        lines = []
        for number, wnid in enumerate(WNIDS):
            for index in range(per_class):
                pixels = train.image[(number * per_class + index) % len(train)]
                name = f"{TOP}/train/{wnid}/images/{wnid}_{index}.JPEG"
                archive.writestr(name, jpeg(pixels))
            for index in range(val_per_class):
                position = number * val_per_class + index
                pixels = test.image[position % len(test)]
                name = f"val_{position}.JPEG"
                archive.writestr(f"{TOP}/val/images/{name}", jpeg(pixels))
                archive.writestr(f"{TOP}/test/images/test_{position}.JPEG", b"")
                lines.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
        archive.writestr(f"{TOP}/val/val_annotations.txt", "".join(lines))


def run(out: Path, *arguments: str) -> str:
    """Runs a command of the package on the data in `out` and prints its seconds."""
    environment = {**os.environ, "TFDS_DATA_DIR": str(out / "data")}
    began = time.perf_counter()
    text = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**environment, "XDG_CACHE_HOME": str(out / "cache")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    print(f"{' '.join(arguments)}: {time.perf_counter() - began:.0f} s\n{text}")
    return text


def prepare(out: Path, per_class: int, val_per_class: int) -> str:
    """Writes the zip, prepares it, and returns what `pmal_tf.data.splits` printed."""
    manual = out / "data" / "downloads" / "manual" / "tiny-imagenet-200.zip"
    write_zip(manual, per_class, val_per_class)
    run(out, "pmal_tf.data.prepare", "--dataset=tiny_imagenet")
    return run(out, "pmal_tf.data.splits", "--dataset=tiny_imagenet")


def measure(out: Path) -> None:
    """Runs the input benchmark, which prints its peak memory."""
    figures = out / "input.json"
    run(
        out,
        *("pmal_tf.benchmark", "input", "--datasets=tiny_imagenet"),
        f"--json={figures}",
    )
    values = {m["name"]: m["value"] for m in json.loads(figures.read_text())}
    assert values["pipeline_over_step_tiny_imagenet"] > 5
    assert values["from_disk_over_step_tiny_imagenet"] > 5


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    printed = prepare(folder, per_class=500, val_per_class=50)
    assert printed.count(COUNTS) == 5, f"not {COUNTS} in every trial"
    measure(folder)

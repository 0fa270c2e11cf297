"""From a folder of real photographs to a served classifier, with one command.

    TFDS_DATA_DIR=... python tests/acceptance/folder_of_photos.py --out=/tmp/photos

Writes CIFAR-10 test photographs as PNG files (four classes to train on, two unknown),
runs `experiments/folder_cpu.flags` on them, and asks the exported model in a fresh
process, which knows nothing of this package, about one image of each.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import open_source

ROOT = Path(__file__).parent.parent.parent
KNOWN = ("airplane", "frog", "horse", "ship")
UNKNOWN = ("cat", "truck")

ASK = """
import sys
import numpy as np, tensorflow as tf
from PIL import Image
model = tf.saved_model.load(sys.argv[1])
paths = sys.argv[2:]
images = np.stack([np.asarray(Image.open(p).convert("RGB"), "float32") for p in paths])
answer = model.signatures["serving_default"](images=tf.constant(images))
for row in zip(paths, answer["class_name"].numpy(), answer["unknown_score"].numpy()):
    print(row[0], row[1].decode(), f"{row[2]:.3f}")
assert "pmal_tf" not in sys.modules
"""


def write_photos(out: Path, per_class: int, data_dir: str = "") -> None:
    """Writes `out/train/<class>/*.png` and `out/unknown/<class>/*.png`."""
    source = open_source("cifar10", SourceOptions(data_dir=data_dir))
    _, test = source.load()
    for side, names in (("train", KNOWN), ("unknown", UNKNOWN)):
        for name in names:
            folder = out / side / name
            folder.mkdir(parents=True)
            members = np.flatnonzero(test.label == source.class_names.index(name))
            for index in members[:per_class]:
                path = folder / f"{test.example_id[index]}.png"
                Image.fromarray(test.image[index]).save(path)


def main(out: Path, per_class: int, *more_flags: str) -> str:
    """Writes the photographs, runs the command, and returns what it printed."""
    photos = out / "photos"
    write_photos(photos, per_class)
    command = [
        *(sys.executable, "-m", "pmal_tf.run"),
        f"--flagfile={ROOT / 'experiments' / 'folder_cpu.flags'}",
        *(f"--data_dir={photos}", f"--workdir={out / 'runs'}"),
        *(f"--export_dir={out / 'saved_models'}", f"--cache_dir={out / 'cache'}"),
        *more_flags,
    ]
    began = time.perf_counter()
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"{' '.join(command)}\n{table}\n{time.perf_counter() - began:.0f} s")
    model = out / "saved_models" / "folder_cpu" / "trial_0" / "1"
    asked = [
        str(next((photos / side / name).iterdir()))
        for side, names in (("train", KNOWN), ("unknown", UNKNOWN))
        for name in names
    ]
    answers = subprocess.run(
        [sys.executable, "-c", ASK, str(model), *asked],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    print(answers)
    assert len(answers.splitlines()) == len(asked)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per_class", type=int, default=100)
    arguments = parser.parse_args()
    main(arguments.out, arguments.per_class)

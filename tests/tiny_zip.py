"""Small zips of the layout of the official tiny-imagenet-200.zip, whole or broken."""

import io
import zipfile

import numpy as np
from PIL import Image

from pmal_tf.data.tiny_imagenet import WNIDS

TOP = "tiny-imagenet-200/"
GREY = f"{WNIDS[0]}_0.JPEG"  # The one greyscale image.

# How `write_tiny_imagenet_zip` can break a zip, and what the error should speak of.
DAMAGES = {
    "not a zip": "not a zip file",
    "cut off": "not a zip file",
    "no wnids.txt": "files without tiny-imagenet-200/wnids.txt, unknown: none",
    "no words.txt": "files without tiny-imagenet-200/words.txt",
    "no annotations": "files without tiny-imagenet-200/val/val_annotations.txt",
    "no training images": f"training images without {WNIDS[0]}",
    "other layout": "files without tiny-imagenet-200/val/val_annotations.txt, tiny-im",
    "a class too few": f"wnids.txt without {WNIDS[-1]}, unknown: none",
    "another class": f"wnids.txt without {WNIDS[-1]}, unknown: n99999999",
    "lists that are not text": "not text",
    "class without training images": f"classes of training images without {WNIDS[3]}",
    "training images of another class": "training images without none, unknown: n9999",
    "image without annotation": "without tiny-imagenet-200/val/images/val_0.JPEG",
    "annotation without image": "unknown: tiny-imagenet-200/val/images/val_0.JPEG",
    "annotation of another class": "val_annotations.txt without none, unknown: n99999",
    "annotation without class": "a line twice or without class: val_0.JPEG",
    "two annotations": "a line twice or without class: val_0.JPEG",
    "class without words": f"words.txt without {WNIDS[7]}",
    "damaged image": "Bad CRC-32",
}


def image_bytes(label, index, *, grey=False):
    """Returns a 64x64 JPEG; classes differ in colour, images of a class in noise."""
    rng = np.random.default_rng([label, index])
    colour = np.random.default_rng(label).integers(40, 216, 3)
    pixels = np.clip(colour + rng.normal(0, 15, (64, 64, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tiny_imagenet_zip(path, train_per_class=2, val_per_class=1, damage=""):
    """Writes a zip with all 200 classes and few images; returns the class by image.

    Args:
        path: The zip to write; its folder is made too.
        train_per_class: Training images of each class.
        val_per_class: Validation images of each class.
        damage: How it is broken, one of `DAMAGES`; empty: not at all.

    Returns:
        The wnid by file name, of training and of validation images.
    """
    assert damage in {"", *DAMAGES}
    files, train, val = {}, {}, {}
    for label, wnid in enumerate(WNIDS):
        for index in range(train_per_class):
            name = f"{wnid}_{index}.JPEG"
            train[name] = wnid
            files[f"train/{wnid}/images/{name}"] = image_bytes(
                label, index, grey=name == GREY
            )
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "".join(
            f"{wnid}_{index}.JPEG\t0\t10\t63\t58\n" for index in range(train_per_class)
        )
    for index in range(200 * val_per_class):
        label = (77 * index + 5) % 200  # Neither sorted nor in the order of wnids.txt.
        val[f"val_{index}.JPEG"] = WNIDS[label]
        files[f"val/images/val_{index}.JPEG"] = image_bytes(label, 1000 + index)
    files["test/images/test_0.JPEG"] = image_bytes(0, 9999)
    # The official list has another order than the sorted one, too.
    files["wnids.txt"] = "".join(f"{wnid}\n" for wnid in reversed(WNIDS))
    files["words.txt"] = "n00001740\tentity\n" + "".join(
        f"{wnid}\tname of {wnid}, another name\n" for wnid in WNIDS
    )
    files["val/val_annotations.txt"] = "".join(
        f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in val.items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _break(files, damage), damage)
    return train, val


def _break(files, damage):
    """Breaks the listed contents in the way that is asked for."""
    first, last, stranger = WNIDS[0], WNIDS[-1], "n99999999"
    edits = {
        "another class": ("wnids.txt", last, stranger),
        "a class too few": ("wnids.txt", f"{last}\n", ""),
        "image without annotation": (
            "val/val_annotations.txt",
            f"val_0.JPEG\t{WNIDS[5]}\t0\t32\t44\t62\n",
            "",
        ),
        "annotation of another class": (
            "val/val_annotations.txt",
            f"val_0.JPEG\t{WNIDS[5]}",
            f"val_0.JPEG\t{stranger}",
        ),
        "annotation without class": (
            "val/val_annotations.txt",
            f"val_0.JPEG\t{WNIDS[5]}\t0\t32\t44\t62\n",
            "val_0.JPEG\n",
        ),
        "two annotations": (
            "val/val_annotations.txt",
            "val_0.JPEG\t",
            f"val_0.JPEG\t{first}\t0\t0\t1\t1\nval_0.JPEG\t",
        ),
        "class without words": ("words.txt", f"{WNIDS[7]}\t", f"{stranger}\t"),
    }
    removed = {
        "no wnids.txt": "wnids.txt",
        "no words.txt": "words.txt",
        "no annotations": "val/val_annotations.txt",
        "no training images": "train/",
        "class without training images": f"train/{WNIDS[3]}/images/",
        "annotation without image": "val/images/val_0.JPEG",
    }
    if damage in edits:
        name, old, new = edits[damage]
        assert old in files[name]
        return {**files, name: files[name].replace(old, new, 1)}
    if damage in removed:
        prefix = removed[damage]
        return {n: data for n, data in files.items() if not n.startswith(prefix)}
    if damage == "other layout":
        return {"../elsewhere/" + name: data for name, data in files.items()}
    if damage == "lists that are not text":
        return {**files, "wnids.txt": b"\xff\xfe\x80"}
    if damage == "training images of another class":
        return {**files, f"train/{stranger}/images/a.JPEG": image_bytes(0, 0)}
    return files


def _write(path, files, damage):
    if damage == "not a zip":
        path.write_bytes(b"<html>404 Not Found</html>" * 100)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(TOP + name, data)
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "damaged image":
        # The last bytes of the image's data, stored as it is.
        data = files[f"train/{WNIDS[1]}/images/{WNIDS[1]}_0.JPEG"]
        end = content.index(data) + len(data)
        content[end - 50 : end] = bytes(50)
        path.write_bytes(content)

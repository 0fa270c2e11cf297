"""The demo page in a real browser: dropped images, a broken file, no outside request.

    python tests/acceptance/demo_in_browser.py [--saved_model=DIR] [--out=demo.png]

Starts `python -m pmal_tf.demo` and opens its page in headless Chromium, which needs
`pip install gradio playwright` and a Chromium (`CHROMIUM`, /usr/bin/chromium by
default). Without a model it exports an untrained one, whose class names try to be HTML.
Every score on the page must be the one that the SavedModel gives for the bytes of the
file: the page must not encode images anew. Exits with 1 where anything is wrong.
"""

import argparse
import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from browser import answer_of, chromium, leave_without, serving
from PIL import Image

CLASSES = ("<b>cat</b>", "${1 + 1} {{dog}}", "<script>document.title = 'hacked'")
# Begins as a PNG file of 8 x 8 pixels does.
_HEADER = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08"
# A header alone, or nothing of an image that can be read.
BROKEN = {
    "broken.png": (_HEADER + bytes(40), "damaged"),
    "notes.txt": (b"Not an image at all.", "not a JPEG, PNG, GIF or BMP file"),
    "webp.webp": (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "not a JPEG, PNG, GIF or BMP file"),
}
VERDICT = "[data-testid=label-output-value]"
# Puts a file into a DataTransfer, as dragging it from the desktop does.
TRANSFER = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), x => x.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  return transfer;
}"""


def export_untrained(folder: Path) -> Path:
    """Exports a tiny network that has learnt nothing, and returns its folder."""
    from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
    from pmal_tf.methods.pmal.model import PMALModel
    from pmal_tf.methods.pmal.prototypes import Prototypes
    from pmal_tf.serving.export import export_saved_model

    ids = np.array([["train_1", "train_2"], ["train_3", "train_4"], ["<i>5</i>", ""]])
    image = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3)).astype(np.uint8)
    prototypes = Prototypes(image, ids != "", ids, np.ones(ids.shape))
    network = build_classifier("oscri", (8, 8, 3), 3, width=0.1)
    model = PMALModel(embedding_and_logits(network), 2)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    # Prototypes themselves are known; about half of other images are not.
    threshold = float(np.median(model.score(255 - image.reshape(-1, 8, 8, 3))))
    export_saved_model(
        model, folder, prototypes, class_names=CLASSES, threshold=threshold
    )
    return folder


def sample_images(saved_model: Path) -> dict[str, bytes]:
    """Returns files by name: a prototype as PNG, noise as JPEG, a large GIF, a BMP."""
    from pmal_tf.serving.extra_files import load_prototype_images

    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (90, 120, 3)).astype(np.uint8))
    large = Image.fromarray(np.tile(np.arange(1500, dtype=np.uint16) // 6, (900, 1)))
    stored = load_prototype_images(saved_model)
    prototype = Image.fromarray(stored["image"][0]) if stored else noise
    files = {}
    for name, image in (
        *(("noise.jpg", noise), ("large.gif", large.convert("L"))),
        *(("UPPER CASE.BMP", noise), ("prototype.png", prototype)),
    ):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(name[-3:], name[-3:].upper())
        image.save(buffer, kind)
        files[name] = buffer.getvalue()
    return files


def check_page(page, saved_model: Path) -> None:
    """Sends files to the page and compares what it says with the SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))

    def expect_answer(name: str, content: bytes) -> None:
        row = loaded.signatures["serving_bytes"](image_bytes=tf.constant([content]))
        verdict = row["class_name"].numpy()[0].decode()
        score = float(row["unknown_score"].numpy()[0])
        # The drop area shows the name too, while there is no answer yet.
        page.locator("[data-testid=block-label]", has_text=name).wait_for()
        shown = page.locator(VERDICT).first.inner_text()
        assert shown == verdict, f"{name}: {shown!r}, not {verdict!r}"
        drawn = float(page.locator("input[type=number]").first.input_value())
        assert abs(drawn - score) < 1e-6, f"{name}: {drawn}, not {score}"
        # Below the image, and what the model sees of it.
        caption = page.locator(".caption-label").nth(2).inner_text()
        nearest = row["nearest_prototype"].numpy()[0].decode()
        assert caption.startswith(f"{nearest}, weight "), caption
        print(f"{name}: {verdict}, score {score:.6f}, nearest prototype {nearest}")

    for place, (name, content) in enumerate(sample_images(saved_model).items()):
        if place % 2:
            drop(page, name, content)
            print("dropped", end=" ")
        else:
            upload(page, name, content)
            print("uploaded", end=" ")
        expect_answer(name, content)
        for broken, (spoilt, sentence) in list(BROKEN.items())[place : place + 1]:
            upload(page, broken, spoilt)
            page.get_by_text(f"No answer for {broken}").wait_for()
            told = page.locator("textarea").first.input_value()
            assert sentence in told, told
            assert page.locator(VERDICT).first.inner_text() == "No answer"
            print(f"{broken}: {told}")
    assert page.title() == "pmal_tf: known or unknown?", page.title()
    wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    assert not wide, "the page is wider than its window"


def upload(page, name: str, content: bytes) -> None:
    """Chooses a file as the file dialog does."""
    kind = "application/octet-stream"
    file = {"name": name, "mimeType": kind, "buffer": content}
    page.locator("input[type=file]").first.set_input_files([file])


def drop(page, name: str, content: bytes) -> None:
    """Drops a file onto the page's area."""
    encoded = base64.b64encode(content).decode()
    transfer = page.evaluate_handle(TRANSFER, [name, encoded])
    area = page.locator("button:has(input[type=file])").first
    area.dispatch_event("drop", {"dataTransfer": transfer})


def main(saved_model: Path | None, out: Path | None) -> None:
    """Runs all checks, and ends with an AssertionError where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        model = saved_model or export_untrained(Path(folder) / "untrained" / "1")
        command = ("pmal_tf.demo", f"--saved_model={model}", "--noopen")
        with (
            serving(*command, ready=lambda url: bool(answer_of(url))) as url,
            chromium("--disable-gpu") as (open_page, strange),
        ):
            page, complaints = open_page(1200, 900, 30), []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url)
            page.locator("textarea").first.wait_for()
            check_page(page, model)
            assert not strange, strange
            assert not complaints, complaints
            if out is not None:
                page.screenshot(path=out, full_page=True)
                print(f"Screenshot: {out}")
    print("The demo page: all as it should be, and no other host asked.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saved_model", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    leave_without("gradio", "playwright")
    main(arguments.saved_model, arguments.out)

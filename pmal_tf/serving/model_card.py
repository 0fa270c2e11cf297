"""The page beside an exported model that tells a person what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pmal_tf.results.scores.registry import get_score
from pmal_tf.results.scores.score import LARGEST

MODEL_CARD = "model_card.md"
_MOST_NAMES = 50


def render_model_card(facts: dict[str, Any]) -> str:
    """Renders the content of `metadata.json` as Markdown.

    Args:
        facts: What `export_saved_model` wrote down; facts that a run adds (dataset,
            calibration, results, flags) may be missing.
    """
    parts = [
        *_purpose(facts),
        *_threshold(facts),
        *_results(facts),
        *_lite(facts),
        *_limits(facts),
        *_origin(facts),
    ]
    return "\n".join(parts) + "\n"


def _purpose(facts: dict[str, Any]) -> Iterator[str]:
    """Says what the model is for."""
    names = facts["class_names"]
    shown = ", ".join(_code(name) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    yield f"# {facts.get('experiment', 'Open set classifier')}"
    yield ""
    yield (
        f"Tells {len(names)} classes apart, and answers `unknown` (class_id -1) for "
        "images that are of none of them."
    )
    yield ""
    yield f"Classes: {shown}{more}."
    yield ""
    text = (
        f"Signatures: {', '.join(f'`{name}`' for name in facts['signatures'])}. "
        "`images` are RGB, float32 on the 0-255 scale, of any one size; `image_bytes` "
        "are JPEG, PNG, GIF or BMP files of any sizes."
    )
    if "prototypes" in facts:
        text += (
            f" `nearest_prototype` names the one of {facts['prototypes']} training "
            "images that the nearest class's distance rests on most; they lie in "
            "`assets.extra/prototypes.npz`."
        )
    yield text
    yield ""


def _threshold(facts: dict[str, Any]) -> Iterator[str]:
    """Says above which score an image is unknown, and what is promised of it."""
    yield "## Threshold"
    yield ""
    yield (
        f"An image is unknown where its score is above **{facts['threshold']:.6g}**. "
        f"The score is {_score(facts)}. Larger is more likely unknown. "
        "`serving_images_threshold` takes another one with each image."
    )
    yield ""
    calibration = facts.get("calibration")
    if calibration is None:
        yield "Who exported the model chose the threshold; nothing is promised of it."
        yield ""
        return
    low, high = calibration["rate_interval_90"]
    yield (
        f"It was set on {calibration['calibration_images']} images of the known "
        f"classes ({calibration['source']}), so that a further image like them is "
        f"rejected with a probability of at most {_percent(calibration['reject_rate'])}"
        " (split-conformal prediction). That holds on average over such sets of "
        "images; of ten sets, nine give thresholds whose own rate lies between "
        f"{_percent(low)} and {_percent(high)}. It does not hold for images taken "
        "otherwise than those."
    )
    yield ""
    rule = calibration["rules"][facts["rule"]]
    if rule["known_rejected"] is not None:
        yield (
            f"Measured on {calibration['measured_images']} other images of the known "
            f"classes: {_percent(rule['known_rejected'])} rejected."
        )
    if rule["unknown_rejected"] is not None:
        yield (
            f"Of {calibration['unknown_images']} images of unknown classes: "
            f"{_percent(rule['unknown_rejected'])} rejected."
        )
    else:
        yield "There were no images of unknown classes: rejection was not measured."
    yield ""


def _results(facts: dict[str, Any]) -> Iterator[str]:
    """Tells the scores on test images."""
    results = facts.get("results")
    if results is None:
        return
    yield "## Test"
    yield ""
    yield (
        f"Dataset `{facts['dataset']}`, protocol `{facts['protocol']}`, trial "
        f"{facts['trial']}: accuracy on known classes {_percent(results['acc'])}."
    )
    measured = results.get(facts["rule"])
    if measured is not None:
        unknown = ", ".join(_code(name) for name in facts["unknown_classes"][:20])
        more = len(facts["unknown_classes"]) - 20
        yield (
            f"By the model's rule: AUROC {_percent(measured['auroc'])}, OSCR "
            f"{_percent(measured['oscr'])}. Unknown were images of {unknown}"
            f"{f' and {more} more' if more > 0 else ''}; images of others may be "
            "rejected more or less often."
        )
    if facts.get("unknown_is_estimate"):
        yield "These classes were held out of the known ones: the scores are estimates."
    yield ""


def _lite(facts: dict[str, Any]) -> Iterator[str]:
    """Tells what conversion to TensorFlow Lite cost."""
    if not facts.get("tflite"):
        return
    yield "## TensorFlow Lite"
    yield ""
    for name, entry in facts["tflite"].items():
        yield f"- `{entry['file']}` ({name}, {entry['bytes']:,} bytes): {entry['text']}"
    yield ""


def _limits(facts: dict[str, Any]) -> Iterator[str]:
    """Says what not to expect."""
    size = facts["image_size"]
    yield "## Limits"
    yield ""
    if size is not None:
        yield (
            f"Images are cropped to the central square and resized to {size} x {size} "
            "pixels, as in training; orientation tags (EXIF) are ignored."
        )
    yield (
        "Some unknown images will be taken for a known class: the threshold promises "
        "something of known images only. Watch the share that is rejected."
    )
    yield ""


def _origin(facts: dict[str, Any]) -> Iterator[str]:
    """Tells how to build it again."""
    yield "## How it was made"
    yield ""
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    if facts.get("method"):
        yield f"Trained by {facts['method']}."
    yield f"With {versions}."
    if facts.get("git_commit"):
        yield f"Git commit {facts['git_commit']}."
    if facts.get("flags"):
        yield ""
        yield (
            "`python -m pmal_tf.run --flagfile=FILE` with these lines in FILE builds "
            "it again:"
        )
        yield ""
        yield "```"
        yield facts["flags"].rstrip()
        yield "```"


def _score(facts: dict[str, Any]) -> str:
    """Says what the score is, and on which scale if that ends."""
    score, (low, high) = get_score(facts["rule"]), facts["threshold_range"]
    scale = f", from {low:g} to {high:g}" if -LARGEST < low < high < LARGEST else ""
    return f"{score.title} ({score.meaning}{scale})"


def _code(name: str) -> str:
    """Renders a name as code, which must stand on one line without a backtick."""
    return f"`{' '.join(name.split()).replace('`', chr(39))}`"


def _percent(share: float) -> str:
    """Renders a share in percent."""
    return f"{100 * share:.1f} %"

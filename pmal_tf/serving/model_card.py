"""The page beside an exported model that tells a person what it is."""

from __future__ import annotations

from typing import Any

import jinja2

from pmal_tf.results.scores.registry import get_score
from pmal_tf.results.scores.score import LARGEST

MODEL_CARD = "model_card.md"
# Markdown: within a paragraph, a line's end is a space.
_TEMPLATE = """\
# {{ experiment or "Open set classifier" }}

Tells {{ class_names | length }} classes apart, and answers `unknown` (class_id -1) for
images that are of none of them.

Classes: {{ names(class_names, 50) }}.

Signatures: `{{ signatures | join("`, `") }}`. `images` are RGB, float32 on the 0-255
scale, of any one size; `image_bytes` are JPEG, PNG, GIF or BMP files of any sizes.
{% if prototypes %}
`nearest_prototype` names the one of {{ prototypes }} training images that the nearest
class's distance rests on most; they lie in `assets.extra/prototypes.npz`.
{% endif %}

## Threshold

An image is unknown where its score is above **{{ "%.6g" | format(threshold) }}**.
The score is {{ score }}. Larger is more likely unknown.
`serving_images_threshold` takes another one with each image.

{% if calibration %}
It was set on {{ calibration.calibration_images }} images of the known classes
({{ calibration.source }}), so that a further image like them is rejected with a
probability of at most {{ percent(calibration.reject_rate) }} (split-conformal
prediction). That holds on average over such sets of images; of ten sets, nine give
thresholds whose own rate lies between {{ percent(calibration.rate_interval_90[0]) }}
and {{ percent(calibration.rate_interval_90[1]) }}. It does not hold for images taken
otherwise than those.

{% set measured = calibration.rules[rule] %}
{% if measured.known_rejected is not none %}
Measured on {{ calibration.measured_images }} other images of the known classes:
{{ percent(measured.known_rejected) }} rejected.
{% endif %}
{% if measured.unknown_rejected is not none %}
Of {{ calibration.unknown_images }} images of unknown classes:
{{ percent(measured.unknown_rejected) }} rejected.
{% else %}
There were no images of unknown classes: rejection was not measured.
{% endif %}
{% else %}
Who exported the model chose the threshold; nothing is promised of it.
{% endif %}

{% if results %}
## Test

Dataset `{{ dataset }}`, protocol `{{ protocol }}`, trial {{ trial }}: accuracy on known
classes {{ percent(results.acc) }}.
{% if results[rule] %}
By the model's rule: AUROC {{ percent(results[rule].auroc) }}, OSCR
{{ percent(results[rule].oscr) }}. Unknown were images of {{ names(unknown_classes, 20)
}}; images of others may be rejected more or less often.
{% endif %}
{% if unknown_is_estimate %}
These classes were held out of the known ones: the scores are estimates.
{% endif %}

{% endif %}
{% if tflite %}
## TensorFlow Lite

{% for name, entry in tflite.items() %}
- `{{ entry.file }}` ({{ name }}, {{ "{:,}".format(entry.bytes) }} bytes):
  {{ entry.text }}
{% endfor %}

{% endif %}
## Limits

{% if image_size is not none %}
Images are cropped to the central square and resized to {{ image_size }} x
{{ image_size }} pixels, as in training; orientation tags (EXIF) are ignored.
{% endif %}
Some unknown images will be taken for a known class: the threshold promises something of
known images only. Watch the share that is rejected.

## How it was made

{% if method %}
Trained by {{ method }}.
{% endif %}
With {% for name, version in versions.items() %}{{ name }} {{ version }}{{
", " if not loop.last }}{% endfor %}.
{% if git_commit %}
Git commit {{ git_commit }}.
{% endif %}
{% if flags %}

`python -m pmal_tf.run --flagfile=FILE` with these lines in FILE builds it again:

```
{{ flags.rstrip() }}
```
{% endif %}
"""


def render_model_card(facts: dict[str, Any]) -> str:
    """Renders the content of `metadata.json` as Markdown.

    Args:
        facts: What `export_saved_model` wrote down; facts that a run adds (dataset,
            calibration, results, flags) may be missing.
    """
    score, (low, high) = get_score(facts["rule"]), facts["threshold_range"]
    scale = f", from {low:g} to {high:g}" if -LARGEST < low < high < LARGEST else ""
    # Not HTML: nothing is escaped but by `_names`.
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(_TEMPLATE).render(
        facts,
        score=f"{score.title} ({score.meaning}{scale})",
        names=_names,
        percent=lambda share: f"{100 * share:.1f} %",
    )


def _names(names: list[str], most: int) -> str:
    """Lists names as code, each on one line and without a backtick."""
    plain = (" ".join(name.split()).replace("`", "'") for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in plain) + more

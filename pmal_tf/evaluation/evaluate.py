"""From a trained model and test images to scores and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmal_tf.data.images import LabelledImages
from pmal_tf.evaluation.metrics import closed_set_metrics, open_set_metrics
from pmal_tf.evaluation.scores import RULES, unknown_scores


@dataclass(frozen=True)
class ImageScores:
    """What a model said of every test image; the content of `scores.npz`.

    Attributes:
        example_id: [n] strings.
        is_unknown: [n] boolean.
        class_index: [n] true class, -1 for unknown classes.
        predicted: [n] class of the largest logit.
        dr: [n] min_k d(z, P_k).
        pr: [n] 1 - max p.
        mls: [n] -max logit.
        distance: [n, K] point-to-set distances.
        embedding: [n, D].
    """

    example_id: np.ndarray
    is_unknown: np.ndarray
    class_index: np.ndarray
    predicted: np.ndarray
    dr: np.ndarray
    pr: np.ndarray
    mls: np.ndarray
    distance: np.ndarray
    embedding: np.ndarray

    @property
    def rules(self) -> dict[str, np.ndarray]:
        """The scores by rule."""
        return {rule: getattr(self, rule) for rule in RULES}

    def rules_of(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores of the images chosen by [n] booleans, by rule."""
        return {rule: score[chosen] for rule, score in self.rules.items()}

    def save(self, path: Path) -> None:
        """Writes the arrays under their names."""
        with path.open("wb") as file:
            np.savez(file, **vars(self))


def score_images(outputs: dict[str, np.ndarray], images: LabelledImages) -> ImageScores:
    """Scores test images from a model's outputs.

    Args:
        outputs: `embedding`, `logits` and `distance` of every image, from
            `PMALModel.outputs`.
        images: The test images, labels -1 for unknown classes.
    """
    return ImageScores(
        example_id=images.example_id,
        is_unknown=images.is_unknown,
        class_index=images.label,
        predicted=outputs["logits"].argmax(axis=1).astype(np.int32),
        distance=outputs["distance"],
        embedding=outputs["embedding"],
        **unknown_scores(outputs["distance"], outputs["logits"]),
    )


def summarise(scores: ImageScores, num_classes: int) -> dict:
    """Computes the metrics of one model, as they stand in `result.json`.

    Args:
        scores: Scores of all test images.
        num_classes: K.

    Returns:
        `acc`, `macro_f1`, and for each rule a dict of `open_set_metrics`, or None where
        no image is unknown.
    """
    known = ~scores.is_unknown
    correct = scores.predicted[known] == scores.class_index[known]
    result: dict = closed_set_metrics(
        scores.class_index[known], scores.predicted[known], num_classes
    )
    for rule, score in scores.rules.items():
        result[rule] = (
            open_set_metrics(score[known], score[scores.is_unknown], correct)
            if scores.is_unknown.any()
            else None
        )
    return result

"""The score by which an exported model rejects."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from pmal_tf.methods.scorer import OUTPUTS, Scorer
from pmal_tf.results.scores.registry import all_scores, get_score
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.errors import PmalError


def rejection_score(scorer: Scorer, rule: str = "") -> Score:
    """Returns the score that a rule names, on the scale of a method.

    Args:
        scorer: The trained method.
        rule: A score's name, or what files call it; empty for the distance to the
            nearest class (DR) where the method measures distances, else for the
            largest logit (MLS).

    Raises:
        PmalError: If there is no such score, or the method lacks what it is computed
            from.
    """
    network = scorer.network.output
    specs = {name: tf.TensorSpec(network[name].shape, tf.float32) for name in OUTPUTS}
    measured = tf.function(scorer.measure).get_concrete_function(specs)
    outputs = set(measured.structured_outputs)
    score = get_score(rule or ("dr" if "distance" in outputs else "mls"))
    if not outputs.issuperset(score.needs):
        others = (s.name for s in all_scores().values() if outputs.issuperset(s.needs))
        raise PmalError(
            f"The rule {score.name} is computed from {' and '.join(score.needs)}, "
            "which the model must say. Received: a model that says "
            f"{', '.join(sorted(outputs))}. Choose one of {', '.join(others)}."
        )
    if score.is_distance:
        end = scorer.largest_distance
        return dataclasses.replace(score, high=end, unreadable=end)
    return score

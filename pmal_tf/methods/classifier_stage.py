"""The stages that train a softmax classifier: M^1 .. M^U, and one trained on."""

from __future__ import annotations

from typing import Any

from pmal_tf.methods.loading import load_model
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.training.fit import fit_classifier, is_trained, save_trained


def classifier_stage(
    trial: Trial,
    model: int | str,
    *,
    kind: str = "pretrain",
    embedding_dropout: float = 0.0,
) -> Stage:
    """Returns the stage `pretrain_<model>`.

    Args:
        trial: The trial.
        model: Its number u, or a name; weights, order and dropout are drawn by it.
        kind: Its name in `--stages`.
        embedding_dropout: Dropout rate of the embedding before the head.
    """
    name = f"pretrain_{model}"

    def run(work: Work) -> dict[str, Any]:
        records = trial.records(work)
        if not is_trained(records):
            classifier = trial.new_classifier(
                "pretrain", model, embedding_dropout=embedding_dropout
            )
            fit_classifier(
                classifier,
                trial.pipeline("pretrain", model),
                trial.recipe,
                seed=trial.seed("dropout", "pretrain", model),
                records=records,
            )
            save_trained(classifier, records)
        return {}

    reads = {**trial.training_reads, "embedding_dropout": embedding_dropout}
    return Stage(name, kind, run, (), reads, trial.training_inputs, (name,))


def trained_on_stage(trial: Trial, name: str, start: str, *purpose: str) -> Stage:
    """Returns the stage that trains a classifier on with the plain loss.

    Args:
        trial: The trial.
        name: Name of the stage.
        start: The stage whose model it goes on from.
        *purpose: Order, augmentation and dropout are those of this purpose.
    """

    def run(work: Work) -> dict[str, Any]:
        records = trial.records(work)
        if not is_trained(records):
            classifier = load_model(work.path_of(f"{start}/model.keras"))
            fit_classifier(
                classifier,
                trial.pipeline(*purpose),
                trial.recipe,
                seed=trial.seed("dropout", *purpose),
                records=records,
            )
            save_trained(classifier, records)
        return {}

    reads, inputs = trial.training_reads, trial.training_inputs
    return Stage(name, name, run, (start,), reads, inputs, (name,))

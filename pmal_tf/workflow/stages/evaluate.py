"""Scoring the test images with the run's method and those judged beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pmal_tf.data.hashing import hash_ids
from pmal_tf.methods.method import Method
from pmal_tf.methods.registry import get_method
from pmal_tf.methods.scorer import Scorer
from pmal_tf.methods.trial import Trial
from pmal_tf.results.calibration import WITHHELD, calibrate, calibrate_on_half
from pmal_tf.results.evaluate import ImageScores, computable, score_images, summarise
from pmal_tf.results.scores.class_mean import CLASS_MEAN, distance_to_means
from pmal_tf.results.scores.registry import get_scores, scores_in
from pmal_tf.results.scores.score import Score
from pmal_tf.results.tensorboard.hparams import write_hparams
from pmal_tf.results.tensorboard.projector import write_projector
from pmal_tf.runtime import distribution
from pmal_tf.runtime.files import save_arrays, write_json
from pmal_tf.runtime.settings import settings_in
from pmal_tf.runtime.stage import TENSORBOARD, Stage, Work
from pmal_tf.workflow.config import EVALUATE, Config

STATISTICS = "statistics.npz"
_WITHHELD_SCORES = "scores_calibration.npz"
_PROTOTYPE_EMBEDDINGS = "prototype_embeddings.npz"
# Settings of every run that sweeps vary, columns of TensorBoard's HParams page beside
# the method's own.
_SHOWN_SETTINGS = ("method", "epochs", "learning_rate", "seed")
_MOST_TEST_IMAGES = 1500

Statistics = dict[str, dict[str, np.ndarray]]


def evaluate_stage(config: Config, trial: Trial) -> Stage:
    """Returns the stage that judges the run's method, and those beside it."""
    methods = (config.own_method, *config.compared)
    needs = dict.fromkeys(name for method in methods for name in method.result_of)
    fits = any(score.statistics for m in methods for score in _asked(config, m))
    return Stage(
        name=EVALUATE,
        kind=EVALUATE,
        run=lambda work: _evaluate(config, trial, work),
        needs=tuple(needs),
        reads={
            **config.result_settings(),
            "trial": trial.number,
            # The result has its name.
            "experiment": config.run.experiment,
        },
        inputs=("test", "calibration", *(("training",) if fits else ())),
        shows=("projector", "hparams"),
    )


def _asked(config: Config, method: Method) -> tuple[Score, ...]:
    """Returns the scores that a method is judged by, those of the run's first."""
    names = (score.name for score in config.scores)
    return get_scores((*names, *method.scores))


def _evaluate(config: Config, trial: Trial, work: Work) -> dict[str, Any]:
    """Writes scores and metrics of each method, and thresholds for the run's own."""
    own, images = config.own_method, trial.images
    first = own.load(work.path_of)
    others = {method.name: method.load(work.path_of) for method in config.compared}
    scorers = {own.name: first, **others}
    tested = {n: scorer.outputs(images.test.image) for n, scorer in scorers.items()}
    measures = "distance" in tested[own.name]
    scored, statistics = {}, {}
    for name, outputs in tested.items():
        asked = _asked(config, get_method(name))
        fitted = _statistics(trial, scorers[name], computable(asked, outputs))
        if measures and "distance" not in outputs and CLASS_MEAN in fitted:
            # Not to the own method's prototypes: many of them are images that this
            # model gets wrong, and DR would tell whose anchors they are.
            distance = distance_to_means(outputs, fitted[CLASS_MEAN])
            outputs["distance"] = distance.astype(np.float32)
        chosen = computable(asked, outputs)
        statistics[name] = fitted
        scored[name] = score_images(outputs, images.test, chosen, fitted)
    embeddings = {}
    if first.prototypes is not None:
        pixels = first.prototypes.image[first.prototypes.mask]
        embeddings = {n: s.outputs(pixels)["embedding"] for n, s in scorers.items()}
    withheld = None
    if len(images.calibration):
        outputs = first.outputs(images.calibration.image)
        chosen = computable(config.scores, outputs)
        fitted = statistics[own.name]
        withheld = score_images(outputs, images.calibration, chosen, fitted)
    if not distribution.is_chief():
        return {}
    metrics = {}
    for name, scores in scored.items():
        metrics[name] = summarise(scores, trial.num_classes)
        scores.save(work.new_path(get_method(name).scores_file))
    if withheld is not None:
        withheld.save(work.new_path(_WITHHELD_SCORES))
    # [P, D] by each method, rows as in `mining/prototypes.npz`, for pictures.
    _save(work, _PROTOTYPE_EMBEDDINGS, embeddings)
    measured = statistics[own.name].items()
    arrays = {f"{s}/{n}": array for s, named in measured for n, array in named.items()}
    _save(work, STATISTICS, arrays)
    if trial.devices.tensorboard:
        _write_embeddings(trial, work, scored[own.name], first)
        _write_hparams_row(config, trial, work, metrics[own.name])
    calibration = _calibrate(config, trial, scored[own.name], withheld)
    write_json(work.new_path("calibration.json"), calibration)
    write_json(work.new_path("result.json"), _result(config, trial, metrics))
    return {}


def _result(config: Config, trial: Trial, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `result.json`."""
    methods, split = [get_method(name) for name in metrics], trial.images.split
    return {
        "experiment": config.run.experiment,
        "dataset": trial.data.dataset,
        "backbone": trial.network.backbone,
        "protocol": split.protocol,
        "trial": trial.number,
        "seed": trial.run_seed,
        "epochs": trial.recipe.epochs,
        "known": split.known,
        "unknown": split.unknown,
        "openness": split.openness,
        "unknown_is_estimate": trial.images.unknown_is_estimate,
        "method": config.own_method.name,
        "baseline": config.own_method.baseline,
        "titles": {method.name: method.title for method in methods},
        "files": {method.name: method.scores_file for method in methods},
        "models": metrics,
    }


def _statistics(trial: Trial, scorer: Scorer, scores: tuple[Score, ...]) -> Statistics:
    """Returns what scores measure against, by the scores' names."""
    if not any(score.statistics for score in scores):
        return {}
    train = trial.images.train
    outputs = scorer.outputs(train.image)
    return {s.name: s.statistics(outputs, train.label) for s in scores if s.statistics}


def _save(work: Work, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, and no file where there are none."""
    if arrays:
        save_arrays(work.new_path(name), arrays)


def _calibrate(
    config: Config, trial: Trial, test: ImageScores, withheld: ImageScores | None
) -> dict[str, Any]:
    """Returns thresholds and what they reject, the content of `calibration.json`.

    They are set on the images withheld for it; without any, on half of the test.
    """
    reject_rate = config.evaluation.reject_rate
    if withheld is None:
        return calibrate_on_half(
            test.scores,
            test.is_unknown,
            test.example_id,
            reject_rate=reject_rate,
            seed=trial.seed("calibration"),
        )
    parts = (test.scores_of(~test.is_unknown), test.scores_of(test.is_unknown))
    return calibrate(withheld.scores, *parts, reject_rate=reject_rate, source=WITHHELD)


def _write_embeddings(
    trial: Trial, work: Work, scores: ImageScores, scorer: Scorer
) -> None:
    """Writes test images, and prototypes if there are any, for TensorBoard."""
    rank = hash_ids(trial.images.test.example_id, "projector", 0)
    shown = np.sort(np.argsort(rank, kind="stable")[:_MOST_TEST_IMAGES])
    images, names = trial.images.test.take(shown), np.array(trial.class_names)
    kind = [*np.where(images.is_unknown, "unknown", "known")]
    class_name = [*np.where(images.is_unknown, "unknown", names[images.label])]
    embedding, pixels = [scores.kept["embedding"][shown]], [np.asarray(images.image[:])]
    example_id, count = [*images.example_id], 0
    prototypes, own = scorer.prototypes, scorer.prototype_embeddings()
    if prototypes is not None and own is not None:
        class_index, _ = np.nonzero(prototypes.mask)
        count = len(class_index)
        embedding.append(own)
        pixels.append(prototypes.image[prototypes.mask])
        kind += ["prototype"] * count
        class_name += [*names[class_index]]
        example_id += [*prototypes.example_id[prototypes.mask]]
    write_projector(
        work.shown / TENSORBOARD / "projector",
        embedding=np.concatenate(embedding),
        image=np.concatenate(pixels),
        kind=kind,
        class_name=class_name,
        example_id=example_id,
        most=_MOST_TEST_IMAGES + count,
    )


def _write_hparams_row(
    config: Config, trial: Trial, work: Work, metrics: dict[str, Any]
) -> None:
    """Writes the trial's row of the HParams page, with its `metrics`."""
    results = {"result/acc": metrics["acc"]}
    results |= {
        f"result/auroc_{score.field}": metrics[score.field]["auroc"]
        for score in scores_in(metrics)
        if metrics[score.field] is not None
    }
    own = settings_in(config.methods[config.run.method])
    names = (*(field.name for field in own), *_SHOWN_SETTINGS)
    write_hparams(
        work.shown / TENSORBOARD / "hparams",
        {**{name: getattr(config, name) for name in names}, "trial": trial.number},
        results,
        name=f"{config.run.experiment}/trial_{trial.number}",
    )

"""Mining: embeddings, robustness and prototypes of the training images (Section 4)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from pmal_tf.api import embed, load_model
from pmal_tf.backbones.classifier import head_kernel
from pmal_tf.mining.mine import MiningResult, mine
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.reports.sheets import contact_sheet
from pmal_tf.reports.tables import markdown_table
from pmal_tf.trial import Trial
from pmal_tf.workdir import write_atomically, write_json

FOLDER = "mining"
_SHEET_SCALE = 3


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Embeds all training images in every space and mines prototypes among them.

    Networks are in inference mode and images are not augmented, or dropout and shifts
    would count as noise of the data.
    """
    config, train = trial.config, trial.train
    folder = trial.folder / FOLDER
    spaces, kernels, predicted = [], [], []
    for model in range(config.num_models):
        classifier = load_model(trial.folder / f"pretrain_{model}" / "model.keras")
        outputs = embed(classifier, train.image)
        spaces.append(outputs["embedding"].astype(np.float32))
        kernels.append(head_kernel(classifier).numpy())
        predicted.append(outputs["logits"].argmax(axis=1).astype(np.int32))
        write_atomically(
            folder / f"embedding_{model}.npy",
            functools.partial(np.save, arr=spaces[-1]),
        )
    result = mine(
        spaces,
        kernels,
        train.label,
        train.example_id,
        class_names=trial.split.known,
        epsilon=config.epsilon,
        prototypes_per_class=config.prototypes_per_class,
        topology_norm=config.topology_norm,
        dtype=config.mining_dtype,
        memory_mb=config.mining_memory_mb,
        unfinished=folder / "unfinished.npz",
    )
    prototypes = Prototypes.from_selection(
        result.selection, train.image, train.example_id, result.robustness.robustness
    )
    write_atomically(folder / "prototypes.npz", prototypes.save)
    arrays = {
        "example_id": train.example_id,
        "class_index": train.label,
        "robustness": result.robustness.robustness,
        "exponent": result.robustness.exponent,
        **{f"kernel_{u}": kernel for u, kernel in enumerate(kernels)},
        **{f"predicted_{u}": value for u, value in enumerate(predicted)},
    }
    write_atomically(
        folder / "robustness.npz", lambda path: np.savez_compressed(path, **arrays)
    )
    write_json(folder / "report.json", [dataclasses.asdict(r) for r in result.report])
    logging.info("Mined prototypes:\n%s", _render_report(result))
    if config.tensorboard:
        _write_images(trial, prototypes)
    names = [f"embedding_{model}.npy" for model in range(config.num_models)]
    names += ["robustness.npz", "prototypes.npz", "report.json"]
    return [f"{FOLDER}/{name}" for name in names], {}


def load_prototypes(trial: Trial) -> Prototypes:
    """Reads the prototypes of a trial."""
    return Prototypes.load(trial.folder / FOLDER / "prototypes.npz")


def _render_report(result: MiningResult) -> str:
    """Renders the mining report as a table."""
    header = [
        *("class", "images", "candidates", "relaxed", "prototypes"),
        "robustness min / median / max",
    ]
    rows = [
        [
            entry.class_name,
            str(entry.images),
            str(entry.candidates),
            "yes" if entry.relaxed else "no",
            str(entry.prototypes),
            f"{entry.robustness_min:.3f} / {entry.robustness_median:.3f} / "
            f"{entry.robustness_max:.3f}",
        ]
        for entry in result.report
    ]
    return markdown_table(header, rows)


def _write_images(trial: Trial, prototypes: Prototypes) -> None:
    """Shows every class's prototypes in TensorBoard."""
    folder = trial.folder / "tensorboard" / FOLDER
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        for index, name in enumerate(trial.split.known):
            images = prototypes.image[index][prototypes.mask[index]]
            sheet = contact_sheet(images, scale=_SHEET_SCALE)
            tf.summary.image(f"prototypes/{name}", sheet[None])
    writer.close()

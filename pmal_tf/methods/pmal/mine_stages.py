"""Mining: classifiers, their embeddings, robustness and prototypes (Section 4).

    pretrain_<u> -> embedding_<u> -> robustness -> mining

Networks are in inference mode and images are not augmented, or dropout and shifts would
count as noise of the data.
"""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from pmal_tf.backbones.classifier import (
    embedding_and_logits,
    head_weights,
    with_precision,
)
from pmal_tf.backbones.inference import forward_in_batches
from pmal_tf.methods.classifier_stage import classifier_stage
from pmal_tf.methods.loading import load_model
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.methods.trial import TRAINING, Trial
from pmal_tf.mining.mine import ClassReport, MiningResult, mine, robustness_of
from pmal_tf.mining.qualities import MC_DROPOUT_RATE
from pmal_tf.mining.robustness import Robustness
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import Space
from pmal_tf.results.figures.class_sheets import collect_sheets, write_class_sheets
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime import distribution
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import save_arrays, write_atomically, write_json
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import TENSORBOARD, Stage, Work
from pmal_tf.runtime.types import Images

MINING = "mining"
# The classifier that a baseline of Table 4 needs beside M^1 .. M^U.
MC_DROPOUT = "mc_dropout"
_TOPOLOGY = f"{MINING}/topology.npz"
# The settings that the stages read.
_ROBUSTNESS = ("topology", "mining_dtype", "topology_anchors")
_MINING = ("epsilon", "prototypes_per_class", "quality", "diversity", "candidate_rule")


def mining_stages(trial: Trial, settings: PMALSettings) -> list[Stage]:
    """Returns the stages up to the prototypes, in order."""
    own = [str(model) for model in range(settings.num_models)]
    dropout = [MC_DROPOUT] if settings.quality == MC_DROPOUT else []
    repeats = [
        [f"repeat_{repeat}_{model}" for model in own]
        for repeat in range(1, settings.mining_repeats + 1)
    ]
    # What only some way of mining needs is made and remade with the mining.
    others = [*dropout, *itertools.chain(*repeats)]
    rates = [MC_DROPOUT_RATE if model == MC_DROPOUT else 0.0 for model in others]
    return [
        *(classifier_stage(trial, int(model)) for model in own),
        *(
            classifier_stage(trial, model, kind="mine", embedding_dropout=rate)
            for model, rate in zip(others, rates, strict=True)
        ),
        *(_embedding_stage(trial, settings, model) for model in (*own, *others)),
        _robustness_stage(trial, settings, own),
        _mining_stage(trial, settings, own, dropout, repeats),
    ]


def _embedding_stage(trial: Trial, settings: PMALSettings, model: str) -> Stage:
    """Returns the stage that embeds the training images with one classifier."""

    def run(work: Work) -> dict[str, Any]:
        network = load_model(work.path_of(f"pretrain_{model}/model.keras"))
        if settings.embedding_precision != "trained":
            network = with_precision(network, settings.embedding_precision)
        image, jit = trial.images.train.image, trial.recipe.use_jit
        if distribution.is_chief():
            write_atomically(
                work.new_path(f"{MINING}/embedding_{model}.npy"),
                lambda path: embed(network, image, path=path, jit=jit),
            )
        else:
            embed(network, image, jit=jit)
        return {}

    # The model is read for its name: that of the file.
    reads = {**read_settings(settings, "embedding_precision"), "model": model}
    needs = (f"pretrain_{model}",)
    return Stage(f"embedding_{model}", "mine", run, needs, reads, (TRAINING,))


def embed(
    classifier: keras.Model,
    images: Images,
    *,
    path: Path | None = None,
    jit: bool = False,
) -> Space:
    """Embeds [N, H, W, 3] images in inference mode, in one pass, as float32.

    The embeddings are memory-mapped to the `.npy` file `path`, or kept in memory. With
    `jit`, XLA compiles the pass.

    Raises:
        PmalError: If the classifier does not end in a linear layer, or the disk has no
            room for the file.
    """
    network = embedding_and_logits(classifier)

    def forward(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = network(batch, training=False)["embedding"]
        return {"embedding": tf.cast(embedding, tf.float32)}

    def allocate(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype) if path is None else _new_file(path, shape, dtype)

    outputs = forward_in_batches(forward, images, jit=jit, allocate=allocate)
    return Space(outputs["embedding"], *head_weights(classifier))


def _new_file(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns a memory-mapped `.npy` file, all of which is on the disk.

    A sparse file on a disk that fills up would kill the process when it is written to.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink()
        raise PmalError(
            f"The disk must have room for {array.nbytes / 2**20:,.0f} MiB of "
            f"embeddings. Received: {path}: {error.strerror}. Make room and run the "
            "same command again; finished stages are skipped."
        ) from error
    return array


def _robustness_stage(trial: Trial, settings: PMALSettings, own: list[str]) -> Stage:
    """Returns the stage that compares the topologies of the classifiers' spaces."""

    def run(work: Work) -> dict[str, Any]:
        # Several hosts would have to agree where to go on.
        alone = not distribution.several_hosts()
        robustness = robustness_of(
            [_space(work, model) for model in own],
            trial.images.train.label,
            settings,
            trial.seed("mining"),
            work.new_path(f"{MINING}/unfinished.npz") if alone else None,
        )
        if distribution.is_chief():
            save_arrays(work.new_path(_TOPOLOGY), _arrays_of(robustness))
        return {}

    reads = {**trial.seeds_read, **read_settings(settings, *_ROBUSTNESS)}
    return Stage("robustness", "mine", run, _made_by(own), reads, (TRAINING,))


def _mining_stage(
    trial: Trial,
    settings: PMALSettings,
    own: list[str],
    dropout: list[str],
    repeats: list[list[str]],
) -> Stage:
    """Returns the stage that selects the prototypes, and draws what it saw."""

    def run(work: Work) -> dict[str, Any]:
        train = trial.images.train
        spaces = [_space(work, model) for model in own]
        mined = functools.partial(
            mine,
            class_index=train.label,
            example_id=train.example_id,
            class_names=trial.class_names,
            settings=settings,
            dropout_space=_space(work, MC_DROPOUT) if dropout else None,
        )
        with np.load(work.path_of(_TOPOLOGY)) as stored:
            robustness = Robustness(**{name: stored[name] for name in stored.files})
        seed = trial.seed("mining")
        results = {"": mined(spaces, seed=seed, robustness=robustness)}
        for number, models in enumerate(repeats, 1):
            others, seed = (
                [_space(work, m) for m in models],
                trial.seed("mining", number),
            )
            results[f"repeat_{number}"] = mined(others, seed=seed)
        if distribution.is_chief():
            folder = work.new_path(MINING)
            for name, result in results.items():
                robust = result.robustness.robustness
                prototypes = Prototypes.from_selection(
                    result.selection, train.image, train.example_id, robust
                )
                prototypes.save(folder / name / "prototypes.npz")
            _write_findings(trial, settings, spaces, results[""], folder)
            _draw_sheets(trial, results[""], folder, work.shown / TENSORBOARD / MINING)
        return {}

    names = (*_MINING, "mining_repeats", *(_ROBUSTNESS if repeats else ()))
    reads = {**trial.seeds_read, **read_settings(settings, *names)}
    reads["class_names"] = list(trial.class_names)
    models = [*own, *dropout, *itertools.chain(*repeats)]
    needs = ("robustness", *_made_by(models))
    return Stage(MINING, "mine", run, needs, reads, (TRAINING,), (MINING,))


def _made_by(models: list[str]) -> tuple[str, ...]:
    """Returns the stages that models' spaces are read from."""
    return tuple(
        f"{part}_{model}" for model in models for part in ("pretrain", "embedding")
    )


def _space(work: Work, model: str) -> Space:
    """Returns the training images as a classifier sees them."""
    classifier = load_model(work.path_of(f"pretrain_{model}/model.keras"))
    path = work.path_of(f"{MINING}/embedding_{model}.npy")
    return Space(np.load(path, mmap_mode="r"), *head_weights(classifier))


def _arrays_of(robustness: Robustness) -> dict[str, np.ndarray]:
    """Returns the arrays that there are, by name."""
    return {n: array for n, array in vars(robustness).items() if array is not None}


def _write_findings(
    trial: Trial,
    settings: PMALSettings,
    spaces: list[Space],
    result: MiningResult,
    folder: Path,
) -> None:
    """Writes `robustness.npz`, on every training image, and the report."""
    robustness = result.robustness
    train = trial.images.train
    arrays = {
        "example_id": train.example_id,
        "class_index": train.label,
        "robustness": robustness.robustness,
        **_arrays_of(robustness),
    }
    if settings.quality != "robustness":
        arrays["quality_exponent"] = result.quality_exponent
    for number, space in enumerate(spaces):
        parts = [space.logits(part).argmax(axis=1) for _, part in space.chunks()]
        arrays[f"kernel_{number}"], arrays[f"bias_{number}"] = space.kernel, space.bias
        arrays[f"predicted_{number}"] = np.concatenate(parts).astype(np.int32)
    save_arrays(folder / "robustness.npz", arrays, compressed=True)
    write_json(folder / "report.json", list(map(vars, result.report)))
    logging.info("Mined prototypes:\n%s", _render_report(result, settings))


def _render_report(result: MiningResult, settings: MiningSettings) -> str:
    """Renders the mining report as a table, with what is not the usual way."""
    rows = [
        [f"{x:.3f}" if isinstance(x, float) else str(x) for x in vars(entry).values()]
        for entry in result.report
    ]
    text = markdown_table([field.name for field in fields(ClassReport)], rows)
    chosen = (settings.quality, settings.candidate_rule, settings.diversity)
    if chosen != ("robustness", "share", "algorithm1"):
        text += (
            f"Candidates by quality {settings.quality} ({settings.candidate_rule}), "
            f"prototypes by diversity {settings.diversity}.\n"
        )
    error = result.robustness.standard_error
    if error is not None:
        text += (
            "Robustness estimated from anchors: standard error of the exponent, median "
            f"{np.median(error):.2g}, largest {error.max():.2g}.\n"
        )
    return text


def _draw_sheets(
    trial: Trial, result: MiningResult, folder: Path, tensorboard: Path
) -> None:
    """Draws each class's images by robustness; TensorBoard shows those drawn."""
    train, names = trial.images.train, trial.class_names
    robust = result.robustness.robustness
    sheets = collect_sheets(
        train.image, train.label, robust, train.example_id, result.selection
    )
    save_arrays(folder / "sheets.npz", sheets, compressed=True)
    pictures = write_class_sheets(sheets, names, folder / "sheets")
    if trial.devices.tensorboard:
        writer = tf.summary.create_file_writer(str(tensorboard))
        with writer.as_default(step=0):
            for name, path in zip(names, pictures, strict=False):
                sheet = np.asarray(Image.open(path))
                tf.summary.image(f"quality/{name}", sheet[None])
        writer.close()

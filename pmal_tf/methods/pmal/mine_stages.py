"""Mining: embeddings, robustness and prototypes of the training images (Section 4).

Networks are in inference mode and images are not augmented, or dropout and shifts would
count as noise of the data.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from pmal_tf.backbones.classifier import head_weights, with_precision
from pmal_tf.methods.loading import load_model
from pmal_tf.methods.pmal.api import embed
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.methods.trial import Trial
from pmal_tf.mining.mine import MiningResult, mine, robustness_of
from pmal_tf.mining.robustness import Robustness
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import Space
from pmal_tf.results.figures.class_sheets import collect_sheets, write_class_sheets
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime import distribution
from pmal_tf.runtime.files import save_arrays, write_atomically, write_json
from pmal_tf.runtime.stage import TENSORBOARD, Work

FOLDER = "mining"
_TOPOLOGY = f"{FOLDER}/topology.npz"


def embed_images(
    trial: Trial, settings: PMALSettings, model: str, work: Work
) -> dict[str, Any]:
    """Embeds all training images with one classifier, into a file."""
    network = load_model(work.path_of(f"pretrain_{model}/model.keras"))
    if settings.embedding_precision != "trained":
        network = with_precision(network, settings.embedding_precision)
    image, jit = trial.images.train.image, trial.recipe.use_jit
    if distribution.is_chief():
        write_atomically(
            work.new_path(f"{FOLDER}/embedding_{model}.npy"),
            lambda path: embed(network, image, path=path, jit=jit),
        )
    else:
        embed(network, image, jit=jit)
    return {}


def measure_robustness(
    trial: Trial, settings: PMALSettings, models: tuple[str, ...], work: Work
) -> dict[str, Any]:
    """Computes the robustness of the training images in the classifiers' spaces."""
    # Several hosts would have to agree where to go on.
    alone = not distribution.several_hosts()
    unfinished = work.new_path(f"{FOLDER}/unfinished.npz") if alone else None
    robustness = robustness_of(
        [_space(work, model) for model in models],
        trial.images.train.label,
        settings,
        trial.seed("mining"),
        unfinished,
    )
    if distribution.is_chief():
        arrays = {n: v for n, v in vars(robustness).items() if v is not None}
        save_arrays(work.new_path(_TOPOLOGY), arrays)
    return {}


def mine_images(
    trial: Trial,
    settings: PMALSettings,
    own: tuple[str, ...],
    rivals: tuple[str, ...],
    repeats: list[tuple[str, ...]],
    work: Work,
) -> dict[str, Any]:
    """Mines prototypes among the training images, and draws what it saw."""
    train, names = trial.images.train, trial.class_names
    spaces = [_space(work, model) for model in own]
    dropout_space = _space(work, rivals[0]) if rivals else None
    with np.load(work.path_of(_TOPOLOGY)) as stored:
        robustness = Robustness(**{name: stored[name] for name in stored.files})
    result = mine(
        spaces,
        train.label,
        train.example_id,
        class_names=names,
        settings=settings,
        dropout_space=dropout_space,
        seed=trial.seed("mining"),
        robustness=robustness,
    )
    repeated = [
        mine(
            [_space(work, model) for model in models],
            train.label,
            train.example_id,
            class_names=names,
            settings=settings,
            dropout_space=dropout_space,
            seed=trial.seed("mining", number),
        )
        for number, models in enumerate(repeats, 1)
    ]
    if not distribution.is_chief():
        return {}
    folder = work.new_path(FOLDER)
    _write_prototypes(trial, result, folder)
    for number, again in enumerate(repeated, 1):
        _write_prototypes(trial, again, folder / f"repeat_{number}")
    arrays = _robustness_arrays(trial, settings, spaces, result)
    save_arrays(folder / "robustness.npz", arrays, compressed=True)
    write_json(folder / "report.json", [dataclasses.asdict(r) for r in result.report])
    logging.info("Mined prototypes:\n%s", _render_report(result, settings))
    sheets = collect_sheets(
        *(train.image, train.label, result.robustness.robustness, train.example_id),
        result.selection,
    )
    save_arrays(folder / "sheets.npz", sheets, compressed=True)
    pictures = write_class_sheets(sheets, names, folder / "sheets")
    if trial.devices.tensorboard:
        _show_pictures(work.shown / TENSORBOARD / FOLDER, names, pictures)
    return {}


def _space(work: Work, model: str) -> Space:
    """Returns the training images as a classifier sees them."""
    classifier = load_model(work.path_of(f"pretrain_{model}/model.keras"))
    path = work.path_of(f"{FOLDER}/embedding_{model}.npy")
    return Space(np.load(path, mmap_mode="r"), *head_weights(classifier))


def _write_prototypes(trial: Trial, result: MiningResult, folder: Path) -> None:
    """Writes the images that mining selected."""
    train = trial.images.train
    prototypes = Prototypes.from_selection(
        result.selection, train.image, train.example_id, result.robustness.robustness
    )
    prototypes.save(folder / "prototypes.npz")


def _robustness_arrays(
    trial: Trial,
    settings: PMALSettings,
    spaces: list[Space],
    result: MiningResult,
) -> dict[str, np.ndarray]:
    """Returns what `robustness.npz` holds of every training image."""
    arrays = {
        "example_id": trial.images.train.example_id,
        "class_index": trial.images.train.label,
        "robustness": result.robustness.robustness,
        "exponent": result.robustness.exponent,
    }
    if result.robustness.standard_error is not None:
        arrays["standard_error"] = result.robustness.standard_error
    if settings.quality != "robustness":
        arrays["quality_exponent"] = result.quality_exponent
    for number, space in enumerate(spaces):
        parts = [space.logits(part).argmax(axis=1) for _, part in space.chunks()]
        arrays[f"kernel_{number}"], arrays[f"bias_{number}"] = space.kernel, space.bias
        arrays[f"predicted_{number}"] = np.concatenate(parts).astype(np.int32)
    return arrays


def _render_report(result: MiningResult, settings: MiningSettings) -> str:
    """Renders the mining report as a table, with what is not the paper's way."""
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
    text = markdown_table(header, rows)
    if (settings.quality, settings.diversity) != ("robustness", "algorithm1"):
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


def _show_pictures(folder: Path, names: tuple[str, ...], pictures: list[Path]) -> None:
    """Shows the sheets of the first classes in TensorBoard."""
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        for name, path in zip(names, pictures, strict=False):
            sheet = np.asarray(Image.open(path))
            tf.summary.image(f"quality/{name}", sheet[None])
    writer.close()

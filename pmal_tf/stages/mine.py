"""Mining: embeddings, robustness and prototypes of the training images (Section 4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from pmal_tf import distribution
from pmal_tf.api import embed, load_model
from pmal_tf.backbones.classifier import head_weights, with_precision
from pmal_tf.mining.mine import MiningResult, MiningSettings, mine, robustness_of
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.mining.robustness import Robustness
from pmal_tf.mining.spaces import Space
from pmal_tf.reports.class_sheets import collect_sheets, write_class_sheets
from pmal_tf.reports.tables import markdown_table
from pmal_tf.shared_files import link
from pmal_tf.stages import pretrain
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, write_atomically, write_json

FOLDER = "mining"
# The settings that the robustness depends on, beside the models.
_ROBUSTNESS_SETTINGS = (
    *("embedding_precision", "topology_norm", "mining_dtype", "topology_anchors"),
)


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Embeds all training images in every space and mines prototypes among them.

    Networks are in inference mode and images are not augmented, or dropout and shifts
    would count as noise of the data.
    """
    config, train = trial.config, trial.train
    folder = trial.folder / FOLDER
    own = list(range(config.num_models))
    by_model: dict[int | str, Space] = {model: _space(trial, model) for model in own}
    if config.quality == pretrain.MC_DROPOUT:
        by_model[pretrain.MC_DROPOUT] = _space(trial, pretrain.MC_DROPOUT)
    spaces = [by_model[model] for model in own]
    # Several hosts would have to agree where to go on.
    unfinished = None if distribution.several_hosts() else folder / "unfinished.npz"
    result = mine(
        spaces,
        train.label,
        train.example_id,
        class_names=trial.split.known,
        settings=trial.mining_settings,
        dropout_space=by_model.get(pretrain.MC_DROPOUT),
        seed=trial.seed("mining"),
        robustness=_robustness(trial, spaces, own, unfinished),
    )
    repeated = _mine_again(trial, by_model)
    if not distribution.is_chief():
        return [], {}
    _write_prototypes(trial, result, folder)
    arrays = _robustness_arrays(trial, spaces, result)
    write_atomically(
        folder / "robustness.npz",
        lambda path: np.savez_compressed(path, allow_pickle=False, **arrays),
    )
    write_json(folder / "report.json", [dataclasses.asdict(r) for r in result.report])
    logging.info("Mined prototypes:\n%s", _render_report(result, trial.mining_settings))
    sheets = collect_sheets(
        *(train.image, train.label, result.robustness.robustness, train.example_id),
        result.selection,
    )
    write_atomically(folder / "sheets.npz", sheets.save)
    pictures = write_class_sheets(sheets, trial.split.known, folder / "sheets")
    if config.tensorboard:
        _write_images(trial, pictures)
    names = [f"embedding_{model}.npy" for model in by_model] + repeated
    # The pictures are for looking; what they are made from counts.
    names += ["robustness.npz", "prototypes.npz", "report.json", "sheets.npz"]
    return [f"{FOLDER}/{name}" for name in names], {}


def _mine_again(trial: Trial, by_model: dict[int | str, Space]) -> list[str]:
    """Mines with other classifiers, for a figure of how much prototypes vary.

    Args:
        trial: The trial.
        by_model: The spaces of mining itself; a rival's is shared.

    Returns:
        The files made, relative to the mining folder.
    """
    config, made = trial.config, []
    for repeat in range(1, config.mining_repeats + 1):
        models = pretrain.models_of_repeat(config, repeat)
        result = mine(
            [_space(trial, model) for model in models],
            trial.train.label,
            trial.train.example_id,
            class_names=trial.split.known,
            settings=trial.mining_settings,
            dropout_space=by_model.get(pretrain.MC_DROPOUT),
            seed=trial.seed("mining", repeat),
        )
        name = f"repeat_{repeat}"
        if distribution.is_chief():
            _write_prototypes(trial, result, trial.folder / FOLDER / name)
        made += [f"{name}/prototypes.npz"]
        made += [f"embedding_{model}.npy" for model in models]
    return made


def _write_prototypes(trial: Trial, result: MiningResult, folder: Path) -> None:
    """Writes the images that mining selected."""
    prototypes = Prototypes.from_selection(
        result.selection,
        trial.train.image,
        trial.train.example_id,
        result.robustness.robustness,
    )
    write_atomically(folder / "prototypes.npz", prototypes.save)


def _robustness(
    trial: Trial,
    spaces: list[Space],
    models: list[int],
    unfinished: Path | None,
) -> Robustness:
    """Computes the robustness of the training images, unless another run has."""
    settings, seed = trial.mining_settings, trial.seed("mining")
    path = trial.folder / FOLDER / "shared_robustness.npz"
    made_from = trial.made_from(
        kind="robustness",
        models=[_checksum_of(trial, model) for model in models],
        seed=seed,
        **{name: getattr(trial.config, name) for name in _ROBUSTNESS_SETTINGS},
    )
    kept = trial.shared.find(made_from)
    if kept is not None:
        logging.info("Robustness: shared")
        with np.load(kept / path.name) as stored:
            return Robustness(**{name: stored[name] for name in stored.files})
    computed = robustness_of(spaces, trial.train.label, settings, seed, unfinished)
    if trial.shared.folder is not None:
        arrays = {n: v for n, v in vars(computed).items() if v is not None}
        write_atomically(path, lambda writing: np.savez(writing, **arrays))
        trial.shared.keep(made_from, {path.name: path})
        path.unlink()
    return computed


def _checksum_of(trial: Trial, model: int | str) -> str:
    """Returns the checksum of a pre-trained classifier."""
    stage = f"pretrain_{model}"
    marker = Marker.read(trial.folder / stage, pretrain.kind_of(model))
    return marker.outputs[f"{stage}/model.keras"] if marker else ""


def load_prototypes(trial: Trial) -> Prototypes:
    """Reads the prototypes of a trial."""
    return Prototypes.load(trial.folder / FOLDER / "prototypes.npz")


def _space(trial: Trial, model: int | str) -> Space:
    """Embeds the training images with a pre-trained classifier, into a file.

    A file that is there is of this stage, which was cut short after it.
    """
    classifier = load_model(trial.folder / f"pretrain_{model}" / "model.keras")
    path = trial.folder / FOLDER / f"embedding_{model}.npy"
    precision = trial.config.embedding_precision
    made_from = trial.made_from(
        kind="embedding",
        model=_checksum_of(trial, model),
        precision=precision,
        # The file's name is its name there too.
        name=path.name,
    )
    kept = None if path.exists() else trial.shared.find(made_from)
    if kept is not None:
        logging.info("Embedding of model %s: shared", model)
        link(kept / path.name, path)
    elif not path.exists():
        network = classifier
        if precision != "trained":
            network = with_precision(classifier, precision)
        image, jit = trial.train.image, trial.recipe.use_jit
        if distribution.is_chief():
            write_atomically(
                path, lambda writing: embed(network, image, path=writing, jit=jit)
            )
        else:
            embed(network, image, jit=jit)
        trial.shared.keep(made_from, {path.name: path})
        distribution.wait_for_all_hosts()
    return Space(np.load(path, mmap_mode="r"), *head_weights(classifier))


def _robustness_arrays(
    trial: Trial, spaces: list[Space], result: MiningResult
) -> dict[str, np.ndarray]:
    """Returns what `robustness.npz` holds of every training image."""
    arrays = {
        "example_id": trial.train.example_id,
        "class_index": trial.train.label,
        "robustness": result.robustness.robustness,
        "exponent": result.robustness.exponent,
    }
    if result.robustness.standard_error is not None:
        arrays["standard_error"] = result.robustness.standard_error
    if trial.config.quality != "robustness":
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


def _write_images(trial: Trial, pictures: list[Path]) -> None:
    """Shows the sheets of the first classes in TensorBoard."""
    folder = trial.folder / "tensorboard" / FOLDER
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        for name, path in zip(trial.split.known, pictures, strict=False):
            sheet = np.asarray(Image.open(path))
            tf.summary.image(f"quality/{name}", sheet[None])
    writer.close()

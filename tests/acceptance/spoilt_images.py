"""Does robustness find images whose quality was spoilt on purpose?

    TFDS_DATA_DIR=... python tests/acceptance/spoilt_images.py --out=DIR

A tenth of CIFAR-10's training images are blurred, occluded or made noisy, a third of
these each; two classifiers, and one with dropout on its embedding, are trained on all
of them without knowing which. Every quality score then orders the training images, and
its AUROC says how well the spoilt ones stand below the untouched ones: 50 is chance.
Robustness stands there in every form that `--topology` has, but literal, which orders
as rms does. `distance` is an image's root mean square distance to all others, large
first: what an exponent of differences of distances grows with.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from pmal_tf.backbones.build import load_model
from pmal_tf.data.hashing import hash_ids
from pmal_tf.methods.classifier_stage import classifier_stage
from pmal_tf.methods.pmal.mine_stages import MC_DROPOUT, embed
from pmal_tf.mining.points import CentredLogits
from pmal_tf.mining.qualities import MC_DROPOUT_RATE, QUALITIES, QualityInput
from pmal_tf.mining.robustness import topology_robustness
from pmal_tf.mining.spaces import Space
from pmal_tf.runtime.stage import Work
from pmal_tf.workflow.config import Config
from pmal_tf.workflow.experiment import open_trial

FORMS = ("correlation", "chord", "rms")
KINDS = ("blur", "occlusion", "noise")
SPOILT_SHARE = 10  # One in ten.
BLUR, NOISE, PATCH = 1.5, 40.0, 16


def spoil(image: np.ndarray, kind: str, generator: np.random.Generator) -> np.ndarray:
    """Returns a spoilt copy of a [H, W, 3] image."""
    height, width, _ = image.shape
    if kind == "blur":
        return gaussian_filter(image, (BLUR, BLUR, 0))
    if kind == "noise":
        noisy = image + NOISE * generator.normal(size=image.shape)
        return noisy.clip(0, 255).astype(np.uint8)
    copy = image.copy()
    side = min(PATCH, height // 2)
    top, left = generator.integers(0, (height - side + 1, width - side + 1))
    copy[top : top + side, left : left + side] = 0
    return copy


def spoilt_kinds(example_id: np.ndarray) -> np.ndarray:
    """Returns what is done to every image, [N] strings, empty for most."""
    number = hash_ids(example_id, "spoilt", 0)
    kind = np.array(KINDS)[(number // SPOILT_SHARE) % len(KINDS)]
    return np.where(number % SPOILT_SHARE == 0, kind, "")


def scores_of_trial(config: Config, number: int) -> tuple[dict, np.ndarray]:
    """Trains on partly spoilt images; returns exponents by quality, and the kinds."""
    trial = open_trial(config, number)
    train = trial.images.train
    kinds = spoilt_kinds(train.example_id)
    image, generator = train.image.copy(), np.random.default_rng(0)
    for position in np.flatnonzero(kinds != ""):
        image[position] = spoil(image[position], kinds[position], generator)
    # The loaded images are the trial's own array: what is trained on is spoilt.
    train.image[:] = image
    spaces = {}
    for model in (0, 1, MC_DROPOUT):
        rate = MC_DROPOUT_RATE if model == MC_DROPOUT else 0.0
        stage = classifier_stage(trial, model, embedding_dropout=rate)
        folder = trial.images.folder
        work = Work(stage.name, "spoilt", folder, folder, {})
        path = work.new_path(f"{stage.name}/model.keras")
        stage.run(work)
        spaces[model] = embed(load_model(path), train.image)
    pair = [spaces[0], spaces[1]]
    embeddings = [space.embedding for space in pair]
    kernels = [space.kernel for space in pair]
    exponents = {
        name: topology_robustness(embeddings, kernels, topology=name).exponent
        for name in FORMS
    }
    given = QualityInput(
        *(pair, train.label, exponents["rms"]),
        dropout_space=spaces[MC_DROPOUT],
        seed=0,
    )
    names = [name for name in QUALITIES if name not in ("none", "robustness")]
    exponents |= {name: QUALITIES[name](given) for name in names}
    exponents["distance"] = rms_distance(pair)
    return exponents, kinds


def rms_distance(spaces: list[Space]) -> np.ndarray:
    """Returns every image's root mean square distance to all, over the spaces.

    For centred points, mean_j |x_i - x_j|^2 = |x_i|^2 + mean_j |x_j|^2.
    """
    squares = [
        (CentredLogits(space.embedding, space.kernel)(slice(None)) ** 2).sum(axis=1)
        for space in spaces
    ]
    return np.sqrt(np.mean([own + own.mean() for own in squares], axis=0))


def main(out: Path, trials: int, epochs: int, images: int) -> dict[str, list[float]]:
    """Prints the AUROC of every quality, by kind; returns the overall ones by trial."""
    config = Config(
        experiment=f"spoilt_{epochs}",
        workdir=str(out),
        dataset="cifar10",
        protocol="neal",
        width=0.25,
        dropout=0.0,
        train_images_per_class=images,
        epochs=epochs,
        batch_size=64,
        learning_rate=0.003,
        schedule="cosine",
        tensorboard=False,
    )
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(trials):
        exponents, kinds = scores_of_trial(config, number)
        print(f"trial {number}: {len(kinds)} images, {(kinds != '').sum()} spoilt")
        for name, exponent in exponents.items():
            for kind in (*KINDS, "all"):
                spoilt = kinds != "" if kind == "all" else kinds == kind
                compared = spoilt | (kinds == "")
                value = roc_auc_score(spoilt[compared], exponent[compared])
                by_kind = found.setdefault(name, {})
                by_kind.setdefault(kind, []).append(100 * value)
    print("AUROC, percent, mean ± standard deviation over trials")
    for name, by_kind in found.items():
        values = [
            f"{kind} {statistics.mean(v):.1f} ± {statistics.pstdev(v):.1f}"
            for kind, v in by_kind.items()
        ]
        print(f"{name:15} {', '.join(values)}")
    return {name: by_kind["all"] for name, by_kind in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="per class")
    main(**vars(parser.parse_args()))

"""The stages of PMAL as they are declared: what each needs, and what it reads.

pretrain_<u> -> embedding_<u> -> robustness -> mining -> optimize
"""

from __future__ import annotations

from functools import partial

from pmal_tf.methods.classifier_stage import classifier_stage
from pmal_tf.methods.pmal import mine_stages
from pmal_tf.methods.pmal.optimize_stage import optimize
from pmal_tf.methods.pmal.settings import OPTIMISATION, PMALSettings
from pmal_tf.methods.trial import TRAINING, Trial
from pmal_tf.mining.qualities import MC_DROPOUT_RATE
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import Stage

# The classifier that a rival of Table 4 needs beside M^1 .. M^U.
MC_DROPOUT = "mc_dropout"
_ROBUSTNESS = ("topology_norm", "mining_dtype", "topology_anchors")
_MINING = ("epsilon", "prototypes_per_class", "quality", "diversity", "candidate_rule")


def stages(trial: Trial, settings: PMALSettings) -> list[Stage]:
    """Returns all stages of a trial, in order."""
    own = tuple(str(model) for model in range(settings.num_models))
    rivals = (MC_DROPOUT,) if settings.quality == MC_DROPOUT else ()
    repeats = [
        tuple(f"repeat_{repeat}_{model}" for model in own)
        for repeat in range(1, settings.mining_repeats + 1)
    ]
    # What only some way of mining needs is made and remade with the mining.
    others = [*rivals, *(model for models in repeats for model in models)]
    classifiers = [classifier_stage(trial, int(model)) for model in own]
    classifiers += [
        classifier_stage(
            trial,
            model,
            kind="mine",
            embedding_dropout=MC_DROPOUT_RATE if model == MC_DROPOUT else 0.0,
        )
        for model in others
    ]
    embeddings = [_embedding(trial, settings, model) for model in (*own, *others)]
    return [
        *classifiers,
        *embeddings,
        _robustness(trial, settings, own),
        _mining(trial, settings, own, rivals, repeats),
        _optimize(trial, settings),
    ]


def _embedding(trial: Trial, settings: PMALSettings, model: str) -> Stage:
    """Returns the stage that embeds the training images with one classifier."""
    return Stage(
        name=f"embedding_{model}",
        kind="mine",
        run=partial(mine_stages.embed_images, trial, settings, model),
        needs=(f"pretrain_{model}",),
        # Its file is named for the model.
        reads={**read_settings(settings, "embedding_precision"), "model": model},
        inputs=(TRAINING,),
    )


def _robustness(trial: Trial, settings: PMALSettings, own: tuple[str, ...]) -> Stage:
    """Returns the stage that compares the topologies of the classifiers' spaces."""
    return Stage(
        name="robustness",
        kind="mine",
        run=partial(mine_stages.measure_robustness, trial, settings, own),
        needs=_spaces(own),
        reads={**trial.seeds_read, **read_settings(settings, *_ROBUSTNESS)},
        inputs=(TRAINING,),
    )


def _mining(
    trial: Trial,
    settings: PMALSettings,
    own: tuple[str, ...],
    rivals: tuple[str, ...],
    repeats: list[tuple[str, ...]],
) -> Stage:
    """Returns the stage that selects the prototypes."""
    repeated = tuple(model for models in repeats for model in models)
    read = (*_MINING, "mining_repeats", *(_ROBUSTNESS if repeats else ()))
    return Stage(
        name=mine_stages.FOLDER,
        kind="mine",
        run=partial(mine_stages.mine_images, trial, settings, own, rivals, repeats),
        needs=("robustness", *_spaces((*own, *rivals, *repeated))),
        reads={
            **trial.seeds_read,
            **read_settings(settings, *read),
            "class_names": list(trial.class_names),
        },
        inputs=(TRAINING,),
        shows=(mine_stages.FOLDER,),
    )


def _optimize(trial: Trial, settings: PMALSettings) -> Stage:
    """Returns the stage that trains against the prototypes."""
    validates = ("test",) if trial.data.tuning_held_out else ()
    return Stage(
        name="optimize",
        kind="optimize",
        run=partial(optimize, trial, settings),
        needs=("pretrain_0", mine_stages.FOLDER),
        reads={
            **trial.training_reads,
            **read_settings(settings, *OPTIMISATION, "init"),
        },
        inputs=(*trial.training_inputs, *validates),
        shows=("optimize",),
    )


def _spaces(models: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the stages that models' spaces are read from."""
    return tuple(
        f"{part}_{model}" for model in models for part in ("pretrain", "embedding")
    )

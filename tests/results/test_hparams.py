import math

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata

from pmal_tf.results.tensorboard.hparams import (
    Interval,
    write_experiment,
    write_hparams,
)
from pmal_tf.runtime.errors import PmalError

SETTINGS = {"rate": 0.25, "epochs": 3, "backbone": "oscri", "control": False}
RESULTS = {"acc": 0.5, "dr.auroc": 0.75}


def read(folder):
    """Returns (tag, step, value or HParams content) of each event in a folder."""
    found = []
    for path in sorted(folder.glob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                content = value.metadata.plugin_data.content
                if value.metadata.plugin_data.plugin_name == "scalars":
                    content = float(tf.make_ndarray(value.tensor))
                found.append((value.tag, event.step, content))
    return found


def session(folder):
    (content,) = [c for t, _, c in read(folder) if t == metadata.SESSION_START_INFO_TAG]
    return metadata.parse_session_start_info_plugin_data(content)


def experiment(folder):
    (content,) = [c for t, _, c in read(folder) if t == metadata.EXPERIMENT_TAG]
    return metadata.parse_experiment_plugin_data(content)


def values_of(info):
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in info.hparams.items()}


def test_settings_and_results_can_be_read_back(tmp_path):
    write_hparams(tmp_path / "new" / "folder", SETTINGS, RESULTS, name="trial 3")
    info = session(tmp_path / "new" / "folder")
    assert info.group_name == "trial 3"
    assert values_of(info) == SETTINGS
    scalars = [event for event in read(tmp_path / "new" / "folder") if event[2] != b""]
    assert scalars[-2:] == [("acc", 0, 0.5), ("dr.auroc", 0, 0.75)]


def test_truth_values_stay_truth_values(tmp_path):
    write_hparams(
        tmp_path, {"control": np.bool_(True)}, {"acc": np.float32(1)}, name="t"
    )
    assert session(tmp_path).hparams["control"].WhichOneof("kind") == "bool_value"


def test_writing_again_replaces_and_spares_what_others_wrote(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default(step=7):
        tf.summary.scalar("loss", 2.0)
    writer.close()
    write_experiment(tmp_path, {"rate": [0.5, 0.25]}, ["acc"])
    write_hparams(tmp_path, {"rate": 0.5}, {"acc": 0.125}, name="first")
    write_hparams(tmp_path, {"rate": 0.25}, {"acc": 0.25}, name="second")
    assert session(tmp_path).group_name == "second"
    scalars = [event for event in read(tmp_path) if isinstance(event[2], float)]
    assert sorted(scalars) == [("acc", 0, 0.25), ("loss", 7, 2.0)]
    assert experiment(tmp_path).hparam_infos[0].name == "rate"


def test_an_experiment_has_domains_and_metrics(tmp_path):
    parameters = {
        "rate": Interval(0, 0.5),
        "epochs": [3, 1, 2.5],
        "backbone": ["wrn_40_4", "oscri"],
        "control": [True, False],
    }
    write_experiment(tmp_path, parameters, ["acc", "dr.auroc"])
    write_experiment(tmp_path, parameters, ["dr.auroc", "acc"])
    found = experiment(tmp_path)
    infos = {info.name: info for info in found.hparam_infos}
    interval = infos["rate"].domain_interval
    assert (interval.min_value, interval.max_value) == (0, 0.5)
    discrete = {name: list(info.domain_discrete) for name, info in infos.items()}
    assert discrete["epochs"] == [1, 2.5, 3]
    assert discrete["backbone"] == ["oscri", "wrn_40_4"]
    assert discrete["control"] == [False, True]
    assert [info.name.tag for info in found.metric_infos] == ["dr.auroc", "acc"]


@pytest.mark.parametrize(
    ("values", "metrics", "name", "sentence"),
    [
        ({}, RESULTS, "t", r"`values` must hold something. Received: \{\}"),
        (SETTINGS, {}, "t", "`metrics` must hold something"),
        (SETTINGS, RESULTS, "", "`name` must hold something. Received: ''"),
        ({"a": math.inf}, RESULTS, "t", "must be finite. Received: a = inf"),
        (SETTINGS, {"acc": np.float32("nan")}, "t", "must be finite.*acc = nan"),
        ({"a": None}, RESULTS, "t", "a = None of type NoneType. Give `str` of it"),
        ({"a": (1, 2)}, RESULTS, "t", r"a = \(1, 2\) of type tuple"),
        (SETTINGS, {"acc": "high"}, "t", "Metrics must be numbers.*acc = 'high'"),
    ],
)
def test_bad_rows_are_told_and_leave_the_folder(
    tmp_path, values, metrics, name, sentence
):
    write_hparams(tmp_path, SETTINGS, RESULTS, name="before")
    with pytest.raises(PmalError, match=sentence):
        write_hparams(tmp_path, values, metrics, name=name)
    assert session(tmp_path).group_name == "before"


@pytest.mark.parametrize(
    ("parameters", "metrics", "sentence"),
    [
        ({}, ["acc"], "`parameters` must hold something"),
        ({"a": [1]}, [], "`metrics` must hold something"),
        ({"a": []}, ["acc"], "The values of a must hold something"),
        ({"a": [1, "b"]}, ["acc"], r"all numbers, .* Received: a in \[1, 'b'\]"),
        ({"a": [True, 2]}, ["acc"], r"all numbers, .* Received: a in \[True, 2\]"),
        ({"a": [math.nan]}, ["acc"], "must be finite. Received: a = nan"),
        ({"a": Interval(2, 1)}, ["acc"], "Received: a from 2 to 1"),
        ({"a": Interval(0, math.inf)}, ["acc"], "must be finite. Received: a = inf"),
        ({"a": Interval(False, 1)}, ["acc"], "Received: a from False to 1"),
    ],
)
def test_bad_experiments_are_told(tmp_path, parameters, metrics, sentence):
    with pytest.raises(PmalError, match=sentence):
        write_experiment(tmp_path, parameters, metrics)
    assert not list(tmp_path.iterdir())

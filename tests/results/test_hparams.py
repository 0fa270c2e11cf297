import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata

from pmal_tf.results.tensorboard.hparams import write_experiment, write_hparams
from pmal_tf.runtime.settings import Interval

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
    folder, odd = tmp_path / "new" / "folder", {"classes": ("cat", "dog"), "none": None}
    write_hparams(folder, {**SETTINGS, **odd}, RESULTS, name="trial 3")
    info = session(folder)
    assert info.group_name == "trial 3"
    as_text = {"classes": "('cat', 'dog')", "none": "None"}
    assert values_of(info) == {**SETTINGS, **as_text}
    assert info.hparams["control"].WhichOneof("kind") == "bool_value"
    scalars = [event for event in read(folder) if event[2] != b""]
    assert scalars[-2:] == [("acc", 0, 0.5), ("dr.auroc", 0, 0.75)]


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


def test_an_error_closes_the_file(tmp_path):
    with pytest.raises(ValueError, match="high"):
        write_hparams(tmp_path, SETTINGS, {"acc": "high"}, name="t")
    write_hparams(tmp_path, SETTINGS, RESULTS, name="again")
    assert session(tmp_path).group_name == "again"


def test_an_experiment_has_domains_and_metrics(tmp_path):
    parameters = {
        "rate": Interval(0, 0.5),
        "epochs": [3, 1, 2],
        "backbone": ["wrn_40_4", "oscri"],
    }
    write_experiment(tmp_path, parameters, ["acc", "dr.auroc"])
    write_experiment(tmp_path, parameters, ["dr.auroc", "acc"])
    found = experiment(tmp_path)
    infos = {info.name: info for info in found.hparam_infos}
    interval = infos["rate"].domain_interval
    assert (interval.min_value, interval.max_value) == (0, 0.5)
    discrete = {name: list(info.domain_discrete) for name, info in infos.items()}
    assert discrete["epochs"] == [1, 2, 3]
    assert discrete["backbone"] == ["oscri", "wrn_40_4"]
    assert [info.name.tag for info in found.metric_infos] == ["dr.auroc", "acc"]

import io
import tarfile

import pytest
import tensorflow_datasets as tfds
from tiny_zip import image_bytes

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds import fetch
from pmal_tf.data.tfds import prepare as tfds_prepare
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.runtime.errors import PmalError


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def write_imagenet_tars(manual, tmp_path):
    classes = {}
    for label, wnid in enumerate(("n01440764", "n01443537")):
        images = {f"{wnid}_{n}.JPEG": image_bytes(label, n) for n in range(3)}
        classes[f"{wnid}.tar"] = write_tar(tmp_path / "class.tar", images)
    write_tar(manual / "ILSVRC2012_img_train.tar", classes)
    val = {f"ILSVRC2012_val_{n:08}.JPEG": image_bytes(7, n) for n in range(1, 5)}
    write_tar(manual / "ILSVRC2012_img_val.tar", val)


@pytest.mark.parametrize("name", ["imagenet2012", "imagenet_lt"])
@pytest.mark.parametrize("present", [0, 1])
def test_imagenet_asks_for_its_files(name, present, tmp_path):
    root = tmp_path / "data"
    manual = root / "downloads" / "manual"
    tars = ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"]
    if present:
        manual.mkdir(parents=True)
        (manual / tars[0]).touch()
    received = f"no {' and no '.join(tars[present:])}"
    with pytest.raises(PmalError, match=rf"Received: {received}\. Get") as raised:
        prepare_all((name,), SourceOptions(data_dir=str(root)))
    assert f"{tars[0]} and {tars[1]} in {str(manual)!r}" in str(raised.value)
    assert not (root / name).exists()
    assert root.exists() == bool(present)


def test_imagenet_is_prepared_from_its_files_without_a_connection(
    tmp_path, monkeypatch
):
    def no_connection(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(fetch.requests.Session, "send", no_connection)
    root = tmp_path / "data"
    write_imagenet_tars(root / "downloads" / "manual", tmp_path)
    line = prepare_all(("imagenet2012",), SourceOptions(data_dir=str(root)))
    assert "6 train, 4 validation images" in line
    folder = root / "imagenet2012" / "5.1.0"
    dataset = tfds.builder_from_directory(folder).as_dataset("train")
    names = {example["file_name"] for example in dataset.as_numpy_iterator()}
    assert names == {
        f"{wnid}_{n}.JPEG".encode()
        for wnid in ("n01440764", "n01443537")
        for n in range(3)
    }


def test_imagenet_lt_also_needs_its_two_lists(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        tfds_prepare, "check_reachable", lambda *given: asked.append(given)
    )
    write_imagenet_tars(manual := tmp_path / "downloads" / "manual", tmp_path)
    builder = tfds.builder("imagenet_lt", data_dir=tmp_path)
    tfds_prepare.check_downloads(builder, tmp_path)
    ((urls, way_out),) = asked
    assert len(list(urls)) == 2
    assert all("drive.google.com" in url for url in urls)
    assert "as ImageNet_LT_val.txt" in way_out
    assert "as ImageNet_LT_train.txt" in way_out
    (manual / "ImageNet_LT_train.txt").touch()
    tfds_prepare.check_downloads(builder, tmp_path)
    urls, way_out = asked[1]
    assert len(list(urls)) == 1
    assert "ImageNet_LT_train.txt" not in way_out


@pytest.mark.parametrize(
    ("name", "host", "count"),
    [
        ("mnist", "storage.googleapis.com", 4),
        ("svhn_cropped", "ufldl.stanford.edu", 3),
        ("cifar10", "www.cs.toronto.edu", 1),
        ("cifar100", "www.cs.toronto.edu", 1),
    ],
)
def test_the_hosts_of_the_benchmarks_are_asked(
    name, host, count, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        tfds_prepare, "check_reachable", lambda *given: asked.append(given)
    )
    monkeypatch.setattr(tfds_prepare, "check_space", lambda *_: None)
    builder = tfds.builder(name, data_dir=tmp_path)
    tfds_prepare.check_downloads(builder, tmp_path)
    ((urls, _),) = asked
    assert len(list(urls)) == count
    assert all(f"//{host}/" in url for url in urls)

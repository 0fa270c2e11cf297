import shutil

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins import projector

from pmal_tf.results.tensorboard.projector import (
    BORDER,
    sprite_tiles,
    write_projector,
)


def points(count, side=8, prototypes=2):
    """Random points; the last `prototypes` are prototypes, unknown is every third."""
    rng = np.random.default_rng(count)
    kind = ["unknown" if i % 3 == 2 else "known" for i in range(count - prototypes)]
    return {
        "embedding": rng.normal(size=(count, 5)),
        "image": rng.integers(0, 256, (count, side, side, 3), np.uint8),
        "kind": kind + ["prototype"] * prototypes,
        "class_name": [f"class {i % 4}" for i in range(count)],
        "example_id": [f"test_{i}" for i in range(count)],
    }


def config_of(folder):
    text = (folder / "projector_config.pbtxt").read_text()
    (entry,) = text_format.Parse(text, projector.ProjectorConfig()).embeddings
    return entry


def embedding_of(folder):
    latest = tf.train.latest_checkpoint(str(folder))
    return tf.train.load_checkpoint(latest).get_tensor(config_of(folder).tensor_name)


def rows_of(folder):
    text = (folder / config_of(folder).metadata_path).read_text()
    assert text.endswith("\n")
    return [line.split("\t") for line in text[:-1].split("\n")]


def tiles_of(folder, count):
    entry = config_of(folder)
    side, height = entry.sprite.single_image_dim
    assert side == height
    with Image.open(folder / entry.sprite.image_path) as sprite:
        pixels = np.asarray(sprite)
    columns = pixels.shape[1] // side
    assert pixels.shape == (columns * side, columns * side, 3)
    places = [divmod(index, columns) for index in range(count)]
    return [
        pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row, column in places
    ]


def test_every_point_has_its_row_embedding_and_tile(tmp_path):
    given = points(10, side=16)
    write_projector(tmp_path, **given, sprite_side=16)
    found = embedding_of(tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, given["embedding"].astype(np.float32))
    columns = (given["class_name"], given["kind"], given["example_id"])
    expected = [["class", "kind", "example id"], *map(list, zip(*columns, strict=True))]
    assert rows_of(tmp_path) == expected
    for tile, image, kind in zip(
        tiles_of(tmp_path, 10), given["image"], given["kind"], strict=True
    ):
        np.testing.assert_array_equal(tile[1:-1, 1:-1], image[1:-1, 1:-1])
        edges = np.concatenate([tile[0], tile[-1], tile[:, 0], tile[:, -1]])
        own = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (edges == BORDER.get(kind, own)).all()


def test_writing_again_replaces_all_and_a_moved_folder_is_read(tmp_path):
    folder = tmp_path / "a" / "old"
    write_projector(folder, **points(9))
    before = {path.name.split(".")[0] for path in folder.iterdir()}
    count = len(list(folder.iterdir()))
    given = points(4)
    write_projector(folder, **given)
    assert {path.name.split(".")[0] for path in folder.iterdir()} == before
    assert len(list(folder.iterdir())) == count
    # TensorBoard takes a folder with an event file for a run.
    assert len(list(folder.glob("*tfevents*"))) == 1
    shutil.move(folder, tmp_path / "new")
    found = embedding_of(tmp_path / "new")
    np.testing.assert_array_equal(found, given["embedding"].astype(np.float32))
    assert len(rows_of(tmp_path / "new")) == 1 + 4


def shown(folder, given, most):
    write_projector(folder, **given, most=most)
    return [row[2] for row in rows_of(folder)[1:]]


def test_the_same_images_are_shown_in_whatever_order_they_come(tmp_path):
    given = points(40, prototypes=3)
    order = np.random.default_rng(0).permutation(40)
    turned = {name: np.asarray(x)[order] for name, x in given.items()}
    chosen = shown(tmp_path, given, most=12)
    assert len(chosen) == 12
    assert chosen[-3:] == ["test_37", "test_38", "test_39"]
    assert chosen[:9] != given["example_id"][:9]
    assert set(shown(tmp_path, turned, most=12)) == set(chosen)
    assert set(chosen) < set(shown(tmp_path, given, most=13))
    # All prototypes are shown, even if there is room for fewer.
    assert shown(tmp_path, given, most=2) == chosen[-3:]
    np.testing.assert_array_equal(
        embedding_of(tmp_path)[-3:], given["embedding"][-3:].astype(np.float32)
    )


def test_names_cannot_break_the_table(tmp_path):
    given = points(3)
    given["class_name"] = ["a\tb", "c\nd\r\ne", "f\u2028g"]
    write_projector(tmp_path, **given)
    assert [row[0] for row in rows_of(tmp_path)[1:]] == ["a b", "c d e", "f g"]


def test_large_images_are_shrunk_whole_with_bars():
    # Left half 40, right half 200, twice as wide as high.
    image = np.full((1, 64, 128, 3), 40, np.uint8)
    image[:, :, 64:] = 200
    (tile,) = sprite_tiles(image, np.array(["known"]), 32)
    assert (tile[:8] == 0).all()
    assert (tile[24:] == 0).all()
    assert (tile[8:24, :12] == 40).all()
    assert (tile[8:24, 20:] == 200).all()
    # Small ones are enlarged pixel by pixel.
    image = points(1, side=2)["image"]
    (tile,) = sprite_tiles(image, np.array(["known"]), 8)
    np.testing.assert_array_equal(tile, image[0].repeat(4, 0).repeat(4, 1))


def test_borders_grow_with_the_tile_and_hide_no_more_than_the_edge():
    image = np.full((3, 4, 4, 3), 77, np.uint8)
    tiles = sprite_tiles(image, np.array(["known", *BORDER]), 64)
    assert (tiles[0] == 77).all()
    for tile, kind in zip(tiles[1:], BORDER, strict=True):
        inside = tile[4:-4, 4:-4]
        assert (inside == 77).all()
        assert (tile == BORDER[kind]).all(axis=-1).sum() == 64 * 64 - 56 * 56


def test_a_sprite_is_no_wider_than_8192_pixels():
    # 17 images need 5 columns; 5 * 1638 = 8190.
    image = np.zeros((17, 1, 1, 3), np.uint8)
    assert sprite_tiles(image, np.array(["known"] * 17), 2000).shape[1:3] == (
        1638,
        1638,
    )

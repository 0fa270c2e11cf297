import numpy as np
import pytest
from made_runs import make_trial

from pmal_tf.results.figures.repeated_mining import (
    draw_repeated_mining,
    shown_rows,
)
from pmal_tf.runtime.errors import PmalError

IDS = np.array([f"train_{number:02d}" for number in range(40)])


def write_prototypes(folder, rows):
    folder.mkdir(exist_ok=True)
    label = np.arange(40)[rows] % 2
    np.savez(folder / "prototypes.npz", example_id=IDS[rows], class_index=label)


@pytest.fixture
def trial(tmp_path, rng):
    """Twenty images of each of two classes, even rows of class 0, mined thrice."""
    trial = make_trial(tmp_path / "digits", 0, known=["one", "two"])
    mining = trial / "mining"
    write_prototypes(trial, [0])  # In a folder above: must not be found.
    write_prototypes(mining, [0, 2, 1, 3])
    write_prototypes(mining / "repeat_1", [2, 4, 1, 5])
    np.savez(mining / "robustness.npz", example_id=IDS, class_index=np.arange(40) % 2)
    embedding = rng.normal(size=(40, 4)).astype(np.float32)
    # Rows 0 and 2 lie at a right angle, row 4 halfway; lengths mean nothing.
    embedding[[0, 2, 4]] = [[3, 0, 0, 0], [0, 5, 0, 0], [1, 1, 0, 0]]
    np.save(mining / "embedding_0.npy", embedding)
    return trial


def test_the_caption_tells_how_far_repetitions_are(trial, any_layout):
    picture = draw_repeated_mining(trial)
    # Row 2 was mined too; row 4 is 1 - cos 45 degrees away: (0 + 0.2929) / 2.
    assert "20 training images of one in the embedding" in picture.caption
    assert "nearest of mining: 0.146; of as many random images" in picture.caption
    assert "Same images: 1 of 2." in picture.caption
    (axes,) = picture.figure.axes
    # All images, and the prototypes of either mining at their places.
    points, mined, repeated = (part.get_offsets().tolist() for part in axes.collections)
    assert (len(points), len(mined), len(repeated)) == (20, 2, 2)
    assert (mined, repeated) == (points[:2], points[1:3])


def test_repetitions_are_told_in_order_of_their_number(trial, any_layout):
    write_prototypes(trial / "mining" / "repeat_10", [0, 2, 1, 3])
    write_prototypes(trial / "mining" / "repeat_2", [4, 4, 1, 3])
    caption = draw_repeated_mining(trial).caption
    assert "0.146 and 0.293 and 0.000; of" in caption


def test_an_embedding_of_zeros_breaks_nothing(trial, any_layout):
    path = trial / "mining" / "embedding_0.npy"
    embedding = np.load(path)
    embedding[[4, 6]] = 0.0
    np.save(path, embedding)
    caption = draw_repeated_mining(trial).caption
    assert "nearest of mining: 0.500; of" in caption


def test_without_repetitions_the_way_out_is_told(trial):
    (trial / "mining" / "repeat_1" / "prototypes.npz").unlink()
    with pytest.raises(PmalError, match=r"none in .*Run with --mining_repeats=2\."):
        draw_repeated_mining(trial)


def test_prototypes_of_other_images_are_told(trial):
    path = trial / "mining" / "repeat_1" / "prototypes.npz"
    np.savez(path, example_id=["train_99"], class_index=[0])
    with pytest.raises(PmalError, match=r"Received: train_99 of class 0 .*Mine anew"):
        draw_repeated_mining(trial)
    with pytest.raises(PmalError, match=r"Received: none of class 1 .*repeat_1"):
        draw_repeated_mining(trial, 1)


def test_a_damaged_repetition_is_told(trial):
    (trial / "mining" / "repeat_1" / "prototypes.npz").write_bytes(b"PK")
    with pytest.raises(PmalError, match=r"arrays must stand .*repeat_1"):
        draw_repeated_mining(trial)


def test_prototypes_are_always_among_the_points_shown():
    needed = np.array([3, 998, 999])
    rows = shown_rows(1000, needed, most=50)
    assert len(rows) == 50
    assert set(needed) <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(shown_rows(1000, needed, most=2), needed)
    np.testing.assert_array_equal(shown_rows(5, np.array([4]), most=50), np.arange(5))

import numpy as np
import pytest
from PIL import Image

from pmal_tf.results.figures.class_sheets import (
    collect_sheets,
    draw_class_sheet,
    write_class_sheets,
)
from pmal_tf.results.figures.sheets import captioned_sheet, text_line

STRIPS = ("highest", "median", "lowest", "prototype")


class RecordedImages:
    """Images on a disk: remembers which were asked for, and hands out no others."""

    def __init__(self, image):
        self._image = image
        self.shape, self.dtype = image.shape, image.dtype
        self.asked = []

    def __len__(self):
        return len(self._image)

    def __getitem__(self, index):
        self.asked.append(index.tolist())
        return self._image[index]


def numbered(count, side=8):
    colours = [(10 * n + 5, 255 - 10 * n, n) for n in range(count)]
    return np.tile(np.array(colours, np.uint8)[:, None, None], (1, side, side, 1))


@pytest.fixture
def worked():
    # Class 0 from high to low, ties by id: 8 (.9), 2 (.7, "b"), 6 (.7, "f"), 0 (.5),
    # 4 (.3), 7 (.1). Class 1 has image 3 alone, class 2 images 1 and 5 in this order.
    return {
        "image": numbered(9),
        "class_index": np.array([0, 2, 0, 1, 0, 2, 0, 0, 0], np.int32),
        "robustness": np.array([0.5, 0.6, 0.7, 0.4, 0.3, 0.2, 0.7, 0.1, 0.9]),
        "example_id": np.array(["z", "d", "b", "q", "r", "a", "f", "e", "i"]),
        "selection": [np.array([6, 8]), np.array([3]), np.array([5, 1])],
    }


def strip_of(sheets, class_index, strip):
    rows = (sheets["class_index"] == class_index) & (sheets["strip"] == strip)
    # The blue channel of `numbered` is the position among all images.
    return sheets["image"][rows][:, 0, 0, 2].tolist()


def strips_of(sheets, class_index):
    return [strip_of(sheets, class_index, strip) for strip in STRIPS]


def test_strips_of_a_worked_example(worked):
    sheets = collect_sheets(**worked, per_strip=2)
    assert strips_of(sheets, 0) == [[8, 2], [6, 0], [4, 7], [6, 8]]
    assert strips_of(sheets, 1) == [[3], [3], [3], [3]]
    assert strips_of(sheets, 2) == [[1, 5], [1, 5], [1, 5], [5, 1]]
    # The median strip lies in the middle; of an odd rest, nearer to the best.
    sheets = collect_sheets(**worked, per_strip=3)
    assert strips_of(sheets, 0)[1:3] == [[2, 6, 0], [0, 4, 7]]
    position = sheets["image"][:, 0, 0, 2]
    np.testing.assert_array_equal(sheets["image"], worked["image"][position])
    for name in ("class_index", "robustness", "example_id"):
        np.testing.assert_array_equal(sheets[name], worked[name][position])
    # Ids that are objects become strings, which can be saved; equal images stand by id.
    worked["example_id"] = worked["example_id"].astype(object)
    worked["robustness"][:] = 0.5
    sheets = collect_sheets(**worked, per_strip=6)
    assert sheets["example_id"].dtype.kind == "U"
    assert strips_of(sheets, 0)[:3] == [[2, 7, 6, 8, 4, 0]] * 3


def test_only_the_images_shown_are_read_class_by_class(worked):
    worked["image"] = RecordedImages(worked["image"])
    sheets = collect_sheets(**worked, per_strip=1)
    # Of class 0 neither the second nor the two before the last are on the sheet.
    assert worked["image"].asked == [[6, 7, 8], [3], [1, 5]]
    assert strips_of(sheets, 0) == [[8], [6], [7], [6, 8]]
    worked["image"].asked.clear()
    sheets = collect_sheets(**worked, most_classes=2)
    assert set(sheets["class_index"]) == {0, 1}
    assert len(worked["image"].asked) == 2


def test_images_of_no_known_class_are_left_out(worked):
    worked["class_index"][8] = -1
    worked["selection"][0] = np.array([6])
    assert 8 not in collect_sheets(**worked)["image"][:, 0, 0, 2]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 8), (5, 8)), ((9, 9), (8, 8)), ((40, 20), (8, 4)), ((2, 100), (1, 8))],
)
def test_large_images_are_shrunk_to_the_longest_side(worked, shape, expected):
    worked["image"] = np.broadcast_to(worked["image"][:, :1, :1], (9, *shape, 3))
    sheets = collect_sheets(**worked, per_strip=2, thumbnail=8)
    assert sheets["image"].shape[1:] == (*expected, 3)
    assert strips_of(sheets, 0) == [[8, 2], [6, 0], [4, 7], [6, 8]]


def test_shrunk_images_still_show_what_they_did(worked):
    stripes = np.zeros((9, 64, 64, 3), np.uint8)
    stripes[:, :, 1::2] = 200
    sheets = collect_sheets(**{**worked, "image": stripes}, thumbnail=16)
    np.testing.assert_allclose(sheets["image"][:, :, 2:-2], 100, atol=5)
    halves = np.zeros((9, 64, 64, 3), np.uint8)
    halves[:, :, 32:, 0] = 200
    sheets = collect_sheets(**{**worked, "image": halves}, thumbnail=16)
    # Left and right of the edge, near which a good filter rings.
    np.testing.assert_array_equal(sheets["image"][0, :, :4], 0)
    np.testing.assert_array_equal(sheets["image"][0, :, 12:], [[(200, 0, 0)] * 4] * 16)


def places(picture, colour):
    """Returns the (top, left) of each 64 x 64 square of one colour."""
    same = (picture == colour).all(axis=2)
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(same, 64, axis=axis)
        same = windows.all(axis=2)
    return [tuple(place) for place in np.argwhere(same).tolist()]


def test_the_picture_shows_the_images_at_their_places(worked):
    # Images of 8 x 8 are magnified to 64 x 64.
    sheets = collect_sheets(**worked, per_strip=2)
    picture = draw_class_sheet(sheets, 0, "cat")
    assert picture.dtype == np.uint8
    found = {n: places(picture, worked["image"][n, 0, 0]) for n in range(9)}
    tops = sorted({top for squares in found.values() for top, _ in squares})
    lefts = sorted({left for squares in found.values() for _, left in squares})
    assert (len(tops), len(lefts)) == (4, 2)
    grid = [[None] * 2 for _ in range(4)]
    for n, squares in found.items():
        for top, left in squares:
            grid[tops.index(top)][lefts.index(left)] = n
    assert grid == [[8, 2], [6, 0], [4, 7], [6, 8]]


def test_more_prototypes_than_columns_go_on_below(worked):
    worked["class_index"][:] = 0
    worked["selection"] = [np.arange(9)]
    sheets = collect_sheets(**worked, per_strip=6)
    picture = draw_class_sheet(sheets, 0, "cat")
    last = [places(picture, worked["image"][n, 0, 0])[-1] for n in range(9)]
    assert len({top for top, _ in last[:6]}) == 1
    assert [left for _, left in last[6:]] == [left for _, left in last[:3]]
    assert {top > last[0][0] + 64 for top, _ in last[6:]} == {True}


def test_title_and_captions_tell_of_the_class(worked):
    sheets = collect_sheets(**worked)
    picture = draw_class_sheet(sheets, 1, "cat")
    assert (picture != draw_class_sheet(sheets, 1, "dog")).any()
    other = {**sheets, "robustness": sheets["robustness"] + 0.001}
    changed = (picture != draw_class_sheet(other, 1, "cat")).any(axis=(1, 2))
    bottoms = [top + 64 for top, _ in places(picture, worked["image"][3, 0, 0])]
    for bottom in bottoms:
        assert changed[bottom : bottom + 20].any()
        changed[bottom : bottom + 20] = False
    assert not changed.any()


@pytest.mark.parametrize(
    "name",
    ["", "京都 Ж مرحبا", "a\nb\x00\t", "\ud800", "😀" * 40, "é\u0301", "w" * 9999],
)
def test_any_name_can_be_a_title(worked, name):
    sheets = collect_sheets(**worked)
    shape = draw_class_sheet(sheets, 1, "cat").shape
    picture = draw_class_sheet(sheets, 1, name)
    assert picture.shape == shape
    assert (picture[:16] == 255).all()
    assert (picture[:, -16:] == 255).all()


def test_letters_lose_accents_that_the_font_lacks():
    line = text_line("Zürich", 99, 20)
    np.testing.assert_array_equal(line, text_line("Zurich", 99, 20))
    assert (line != text_line("Zrich", 99, 20)).any()
    np.testing.assert_array_equal(text_line("a\nb", 99, 20), text_line("a b", 99, 20))


def test_long_lines_are_cut_short():
    line, longer = text_line("w" * 50, 100, 20), text_line("w" * 60, 100, 20)
    np.testing.assert_array_equal(line, longer)
    assert (line != text_line("w" * 5, 100, 20)).any()


def test_a_sheet_without_images_has_no_height():
    assert captioned_sheet(np.empty((0, 8, 8, 3), np.uint8), [], 3).shape[0] == 0


def test_sheets_are_written_under_safe_names(worked, tmp_path):
    sheets = collect_sheets(**worked)
    folder = tmp_path / "new" / "sheets"
    names = ["a/b", "x" * 90, "Zürich-京_1"]
    paths = write_class_sheets(sheets, names, folder)
    shown = [path.name for path in paths]
    assert shown == ["0_a_b.png", f"1_{'x' * 80}.png", "2_Z_rich-__1.png"]
    assert sorted(folder.iterdir()) == paths
    for index, (path, name) in enumerate(zip(paths, names, strict=True)):
        with Image.open(path) as picture:
            drawn = draw_class_sheet(sheets, index, name)
            np.testing.assert_array_equal(np.asarray(picture), drawn)
    # Files sort as the classes do.
    first = write_class_sheets(sheets, [*names, *"defghijk"], folder / "many")[0]
    assert first.name == "00_a_b.png"

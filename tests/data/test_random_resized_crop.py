import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates
from scipy.stats import kstest, spearmanr

from pmal_tf.data.batches.augment import crop_and_flip_parameters, draw_operations
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.batches.random_resized_crop import crop_and_resize, random_boxes
from pmal_tf.data.hashing import hash_ids

COUNT = 20_000
WHOLE = [0.0, 0.0, 1.0, 1.0]


def drawn_bits(count=COUNT):
    return hash_ids(np.array([f"train_{n}" for n in range(count)]), "order", 0)


@pytest.fixture(scope="module")
def boxes():
    return random_boxes(drawn_bits()).numpy()


def boxes_by_trying(generator, count):
    """Areas and ratios as torchvision's `RandomResizedCrop` draws them, of a square."""
    found = []
    while len(found) < count:
        area = generator.uniform(0.08, 1)
        ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        if max(np.sqrt(area * ratio), np.sqrt(area / ratio)) <= 1:
            found.append((area, ratio))
    return np.array(found).T


def test_areas_and_ratios_are_those_of_trying_until_a_box_fits(boxes):
    height, width = boxes[:, 2:].astype(np.float64).T
    wanted = boxes_by_trying(np.random.default_rng(0), COUNT)
    for own, other in zip((height * width, width / height), wanted, strict=True):
        assert kstest(own, other).pvalue > 0.01
    # Large areas leave less room for ratios. In the plane of area and log ratio, the
    # part that fits above 3/4 is twice the integral of -ln a, 0.0685 of 0.4540.
    share = (height * width > 0.75).mean()
    assert share == pytest.approx(0.1508, abs=4 * np.sqrt(0.1508 * 0.8492 / COUNT))


def test_boxes_lie_in_the_image_and_keep_their_bounds(boxes):
    top, left, height, width = boxes.astype(np.float64).T
    assert boxes.dtype == np.float32
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-7
    area, ratio = height * width, width / height
    assert 0.08 <= area.min() < 0.081
    assert 0.99 < area.max() <= 1
    assert 3 / 4 - 1e-6 < ratio.min() < 0.751
    assert 1.332 < ratio.max() < 4 / 3 + 1e-6


def test_places_are_even_and_nothing_drawn_tells_of_anything_else(boxes):
    top, left, height, width = boxes.astype(np.float64).T
    down, right = top / (1 - height), left / (1 - width)
    for place in (down, right):
        assert kstest(place, "uniform").pvalue > 0.01
    bits = drawn_bits()
    vertical, horizontal, flip = (v.numpy() for v in crop_and_flip_parameters(bits, 4))
    operation, sign = (values.numpy() for values in draw_operations(bits, 0))
    drawn = [down, right, height * width, width / height, flip, vertical, horizontal]
    correlation = spearmanr(np.stack([*drawn, operation, sign], axis=1)).statistic
    # Of 30 pairs that involve a box; offsets and flips are tested beside their code.
    assert np.abs(np.triu(correlation, 1)[:4]).max() < 4 / np.sqrt(COUNT)


def test_a_box_belongs_to_the_hash_and_not_to_its_place_in_the_batch(boxes):
    bits = drawn_bits(60)
    for count in (1, 3, 8, 17, 60):
        np.testing.assert_array_equal(random_boxes(bits[:count]), boxes[:count])
    np.testing.assert_array_equal(random_boxes(bits[::-1])[::-1], boxes[:60])
    assert random_boxes(bits[:0]).shape == (0, 4)


def crop_one(image, box, flip=False, dtype=np.uint8):
    image = np.array(image, dtype)[None, :, :, None]
    given = tf.constant([box], tf.float32), tf.constant([flip])
    return crop_and_resize(tf.constant(image), *given).numpy()[0, :, :, 0]


# A row of four pixels whose centres lie at 1/2, 3/2, ...; half of it has pixels a
# quarter from these. Beyond the image's first and last centre nothing changes.
ROW = [0, 40, 80, 120]


@pytest.mark.parametrize(
    ("left", "wide", "flip", "wanted"),
    [
        (0.0, 0.5, False, [0, 10, 30, 50]),
        (0.5, 0.5, False, [70, 90, 110, 120]),
        (0.25, 0.5, False, [30, 50, 70, 90]),
        (0.25, 0.5, True, [90, 70, 50, 30]),
        (0.0, 0.5, True, [50, 30, 10, 0]),
    ],
)
def test_crops_by_hand(left, wide, flip, wanted):
    across = crop_one([ROW] * 3, [0.0, left, 1.0, wide], flip)
    np.testing.assert_array_equal(across, [wanted] * 3)
    down = crop_one(np.transpose([ROW] * 3), [left, 0.0, wide, 1.0])
    np.testing.assert_array_equal(down.T, [wanted[:: -1 if flip else 1]] * 3)


def test_integers_are_rounded_and_floats_are_not():
    # The first centre of 3/4 lies at 3/8, which is before that of the first pixel.
    box, values = [0.0, 0.0, 1.0, 0.75], [0, 2, 4, 7]
    assert crop_one([values], box)[0].tolist() == [0, 1, 3, 4]
    exact = crop_one([values], box, dtype=np.float32)[0].tolist()
    assert exact == [0.0, 1.25, 2.75, 4.375]


@pytest.mark.parametrize("shape", [(9, 32, 32, 3), (5, 8, 11, 3), (2, 224, 224, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_equal_those_of_scipy(shape, dtype, boxes, rng):
    images = rng.integers(0, 256, shape).astype(dtype)
    boxes, flip = boxes[: len(images)], rng.integers(0, 2, len(images)).astype(bool)
    cropped = crop_and_resize(tf.constant(images), boxes, flip)
    assert cropped.dtype == dtype
    height, width = shape[1:3]
    wanted = []
    for image, (top, left, tall, wide), mirror in zip(images, boxes, flip, strict=True):
        y = (top + tall * (np.arange(height) + 0.5) / height) * height - 0.5
        x = (left + wide * (np.arange(width) + 0.5) / width) * width - 0.5
        grid = np.meshgrid(y, x[::-1] if mirror else x, indexing="ij")
        channels = [
            map_coordinates(values.astype(float), grid, order=1, mode="nearest")
            for values in np.moveaxis(image, -1, 0)
        ]
        wanted.append(np.stack(channels, axis=-1))
    # Places in float32 are off by 1e-5 pixels, between which values differ by 255.
    off = np.abs(cropped.numpy() - np.stack(wanted))
    assert off.max() < (0.51 if dtype == np.uint8 else 0.01)


def test_the_whole_image_is_the_image(rng):
    images = rng.integers(0, 256, (2, 7, 9, 3)).astype(np.uint8)
    flip = np.array([False, True])
    same = crop_and_resize(tf.constant(images), tf.constant([WHOLE] * 2), flip).numpy()
    np.testing.assert_array_equal(same, [images[0], images[1][:, ::-1]])


def pipeline(count=24, batch_size=6, **options):
    generator = np.random.default_rng(0)
    return TrainingPipeline(
        image=generator.integers(0, 256, (count, 16, 16, 3)).astype(np.uint8),
        label=np.arange(count) % 4,
        example_id=np.array([f"train_{n}" for n in range(count)]),
        batch_size=batch_size,
        seed=0,
        **{"augment": True, "crop": "random_resized", **options},
    )


def streamed(source, first_epoch=0, last_epoch=2):
    batches = list(source.batches(first_epoch, last_epoch).as_numpy_iterator())
    return [
        np.concatenate([features[name] for features, _ in batches])
        for name in ("example_index", "image")
    ]


def assert_same(one, other):
    for own, wanted in zip(one, other, strict=True):
        np.testing.assert_array_equal(own, wanted)


def test_images_of_a_stream_depend_on_seed_epoch_and_id_alone():
    order, images = streamed(pipeline())
    assert images.dtype == np.uint8
    assert_same(streamed(pipeline()), (order, images))
    assert_same(streamed(pipeline(batch_size=8)), (order, images))
    assert_same(streamed(pipeline(), 1, 2), (order[24:], images[24:]))
    # An image has another part in the next epoch.
    first, second = images[:24][order[:24].argsort()], images[24:][order[24:].argsort()]
    assert (first != second).any(axis=(1, 2, 3)).all()


def test_only_where_it_augments_a_stream_crops():
    plain = pipeline(augment=False)
    order, images = streamed(plain)
    np.testing.assert_array_equal(images, plain.image[order])
    cropped, shifted = pipeline(), pipeline(crop="shift")
    assert_same(streamed(cropped)[:1], [order])
    assert (streamed(shifted)[1] != streamed(cropped)[1]).any(axis=(1, 2, 3)).all()


def test_a_stream_crops_before_rand_augment(monkeypatch):
    def black_or_white(images, bits, **_):
        return 255 * tf.cast(images > 127, tf.uint8)

    monkeypatch.setattr("pmal_tf.data.batches.pipeline.rand_augment", black_or_white)
    # Afterwards, there would be grey between them.
    assert set(np.unique(streamed(pipeline(rand_augment=1))[1])) == {0, 255}

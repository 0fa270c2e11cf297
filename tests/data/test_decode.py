import io
import resource
import struct
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pmal_tf.data.decoding.decode import (
    MAX_PIXELS,
    declared_size,
    decode_image,
    resize_images,
)

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 1)).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
RGBA = Image.fromarray(np.concatenate([PIXELS, ALPHA], axis=-1))
GREY = RGB.convert("L")
PALETTE = RGB.quantize(200)
FEW_COLOURS = RGB.quantize(20)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(contents, size=SIDE):
    return decode_image(tf.constant(contents), size).numpy()


def sizes(contents):
    return tuple(int(side) for side in declared_size(tf.constant(contents)))


def in_rgb(image):
    return np.asarray(image.convert("RGB"))


def with_png_size(width, height, contents=None):
    """Rewrites the size that a PNG declares, with the checksum that fits it."""
    png = bytearray(contents or encode(RGB, "PNG"))
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def with_jpeg_size(width, height):
    jpeg = bytearray(encode(RGB, "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(jpeg)


def with_gif_size(width, height):
    gif = bytearray(encode(PALETTE, "GIF"))
    gif[6:10] = struct.pack("<HH", width, height)
    return bytes(gif)


def with_bmp_size(width, height):
    bmp = bytearray(encode(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    return bytes(bmp)


LOSSLESS = {
    "png rgb": (encode(RGB, "PNG"), in_rgb(RGB)),
    "png grey": (encode(GREY, "PNG"), in_rgb(GREY)),
    "png palette": (encode(PALETTE, "PNG"), in_rgb(PALETTE)),
    "png palette of 4 bits": (
        encode(RGB.quantize(16), "PNG"),
        in_rgb(RGB.quantize(16)),
    ),
    "png 1 bit": (encode(RGB.convert("1"), "PNG"), in_rgb(RGB.convert("1"))),
    # Transparency is dropped: blending onto any colour would change these.
    "png rgba": (encode(RGBA, "PNG"), PIXELS),
    "png grey and alpha": (encode(RGBA.convert("LA"), "PNG"), in_rgb(GREY)),
    "png palette with a transparent colour": (
        encode(FEW_COLOURS, "PNG", transparency=3),
        in_rgb(FEW_COLOURS),
    ),
    "png with a transparent colour": (
        encode(RGB, "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
        PIXELS,
    ),
    "bmp 24 bit": (encode(RGB, "BMP"), PIXELS),
    "bmp 32 bit": (encode(RGBA, "BMP"), PIXELS),
    "bmp 8 bit grey": (encode(GREY, "BMP"), in_rgb(GREY)),
    "bmp 8 bit palette": (encode(PALETTE, "BMP"), in_rgb(PALETTE)),
    "bmp 8 bit short palette": (encode(FEW_COLOURS, "BMP"), in_rgb(FEW_COLOURS)),
    "gif": (encode(PALETTE, "GIF"), in_rgb(PALETTE)),
    "gif grey": (encode(GREY, "GIF"), in_rgb(GREY)),
}

SMOOTH = np.stack(
    [*np.mgrid[0:SIDE, 0:SIDE] * SIDE, np.full((SIDE, SIDE), 90)], axis=-1
)
SMOOTH_IMAGE = Image.fromarray(SMOOTH.astype(np.uint8))
JPEGS = {
    "rgb": encode(SMOOTH_IMAGE, "JPEG", quality=90),
    "rgb, colour at full resolution": encode(SMOOTH_IMAGE, "JPEG", subsampling=0),
    "progressive": encode(SMOOTH_IMAGE, "JPEG", progressive=True),
    "grey": encode(SMOOTH_IMAGE.convert("L"), "JPEG"),
    "cmyk": encode(SMOOTH_IMAGE.convert("CMYK"), "JPEG"),
}

DAMAGED = {
    "empty": b"",
    "text": b"This is no image, whatever its name may say." * 3,
    "text that begins as a BMP": b"BMW makes cars; this text is longer than a header."
    * 3,
    "zeros": bytes(100),
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "jpeg signature alone": b"\xff\xd8\xff",
    "gif signature alone": b"GIF89a",
    "bmp signature alone": b"BM",
    "webp": encode(RGB, "WEBP"),
    "tiff": encode(RGB, "TIFF"),
    **{
        f"{kind} cut to {share:.0%}": contents[: int(share * len(contents))]
        for kind, contents in {
            "png": encode(RGB, "PNG"),
            "jpeg": encode(RGB, "JPEG"),
            "gif": encode(PALETTE, "GIF"),
            "bmp": encode(RGB, "BMP"),
            "bmp palette": encode(PALETTE, "BMP"),
        }.items()
        for share in (0.2, 0.5, 0.9)
    },
    "png without height": with_png_size(SIDE, 0),
    "bmp 8 bit, palette shorter than its numbers": b"".join(
        [
            (palette_bmp := encode(PALETTE, "BMP"))[:46],
            struct.pack("<I", 5),
            palette_bmp[50:],
        ]
    ),
}

OVERSIZE = {
    "png": with_png_size(30_000, 30_000),
    "png of one row too many": with_png_size(8192, 8193),
    "png of which height * width wraps": with_png_size(2**32 - 1, 2**32 - 1),
    "jpeg": with_jpeg_size(30_000, 30_000),
    "gif": with_gif_size(30_000, 30_000),
    "bmp": with_bmp_size(30_000, 30_000),
    "bmp from top to bottom": with_bmp_size(30_000, -30_000),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_files_decode_to_the_pixels_that_pillow_sees(kind):
    contents, expected = LOSSLESS[kind]
    decoded = decode(contents)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)
    assert sizes(contents) == (SIDE, SIDE)


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_decode_to_nearly_the_pixels_that_pillow_sees(kind):
    expected = in_rgb(Image.open(io.BytesIO(JPEGS[kind]))).astype(int)
    difference = np.abs(decode(JPEGS[kind]) - expected)
    # Two versions of the inverse cosine transform; another order of the channels, or
    # CMYK taken for RGB, is off by dozens.
    assert difference.max() <= 8
    assert difference.mean() < 2.5
    assert sizes(JPEGS[kind]) == (SIDE, SIDE)


def test_of_16_bits_the_upper_8_are_kept():
    values = np.random.default_rng(2).integers(0, 2**16, (SIDE, SIDE))
    decoded = decode(encode(Image.fromarray(values.astype(np.uint16)), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(values[..., None] >> 8, 3, -1))


def test_a_bmp_stored_from_top_to_bottom_stands_upright():
    contents = bytearray(encode(RGB, "BMP"))
    rows = np.frombuffer(bytes(contents[54:]), np.uint8).reshape(SIDE, -1)
    contents[22:26] = struct.pack("<i", -SIDE)
    contents[54:] = rows[::-1].tobytes()
    np.testing.assert_array_equal(decode(bytes(contents)), PIXELS)
    assert sizes(bytes(contents)) == (SIDE, SIDE)


def test_palette_bmps_of_odd_width_and_later_headers_are_looked_up():
    # Rows are filled up to four bytes.
    odd = RGB.crop((0, 0, 13, 13)).quantize(150)
    np.testing.assert_array_equal(decode(encode(odd, "BMP"), 13), in_rgb(odd))
    # Version 4 of the header is 108 bytes long, 68 more than the usual one.
    contents = encode(PALETTE, "BMP")
    (pixels_at,) = struct.unpack("<I", contents[10:14])
    longer = (
        contents[:10]
        + struct.pack("<II", pixels_at + 68, 108)
        + contents[18:54]
        + bytes(68)
        + contents[54:]
    )
    np.testing.assert_array_equal(decode(longer), in_rgb(PALETTE))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_one_pixel_is_enough(kind):
    pixel = RGB.crop((3, 5, 4, 6))
    contents = encode(pixel, kind)
    assert sizes(contents) == (1, 1)
    assert decode(contents, 1).shape == (1, 1, 3)
    np.testing.assert_allclose(decode(contents, 1)[0, 0], PIXELS[5, 3], atol=4)
    # Enlarged, it is one colour.
    enlarged = decode(contents, 4)
    assert enlarged.shape == (4, 4, 3)
    assert len(np.unique(enlarged.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_height_comes_before_width(kind):
    assert sizes(encode(RGB.resize((21, 9)), kind)) == (9, 21)


def test_the_central_square_is_cut_out_and_resized():
    image = RGB.resize((21, 9))
    expected = resize_images(in_rgb(image)[None], 5)[0].numpy()
    np.testing.assert_array_equal(decode(encode(image, "PNG"), 5), expected)


def test_the_orientation_tag_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(SMOOTH_IMAGE, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    plain = decode(encode(SMOOTH_IMAGE, "JPEG"))
    np.testing.assert_array_equal(decode(turned), plain)
    assert not np.array_equal(plain, np.rot90(plain, -1))


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_sound_image_is_refused(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(DAMAGED[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "zeros", "webp", "tiff"])
def test_what_is_no_image_has_no_size(kind):
    assert sizes(DAMAGED[kind]) == (0, 0)


def test_the_header_tells_the_size_of_images_of_any_size():
    assert sizes(OVERSIZE["png"]) == (30_000, 30_000)
    assert sizes(OVERSIZE["jpeg"]) == (30_000, 30_000)
    assert sizes(OVERSIZE["bmp from top to bottom"]) == (30_000, 30_000)
    assert sizes(with_png_size(7, 2**31 - 1)) == (2**31 - 1, 7)
    assert 8192 * 8192 == MAX_PIXELS


def peak_memory():
    """Returns the most memory that this process ever had, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def refused_cheaply(contents):
    """Checks that an image is refused, and not decoded first."""
    before = peak_memory()
    began = time.perf_counter()
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(contents)
    assert time.perf_counter() - began < 2.0
    # 30,000 x 30,000 pixels take 2,700,000 kB.
    assert peak_memory() - before < 50_000


@pytest.mark.parametrize("kind", OVERSIZE)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(kind):
    refused_cheaply(OVERSIZE[kind])


def test_too_many_pixels_are_refused_though_all_of_them_are_there():
    contents = encode(Image.new("1", (8192, 8193)), "PNG")
    refused_cheaply(contents)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        decode(contents)


def gif_parts(image, **options):
    """Splits a GIF into what comes before its frames, and its frame or frames."""
    gif = encode(image, "GIF", **options)
    end = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    return gif[:end], gif[end:-1]


def test_the_frames_of_a_gif_may_not_be_larger_than_the_gif():
    # The size of the whole says little: each frame declares its own.
    contents = bytearray(encode(Image.new("P", (20_000, 4_000)), "GIF"))
    contents[6:10] = struct.pack("<HH", 1, 1)
    refused_cheaply(bytes(contents))


def test_later_frames_of_a_gif_are_not_unpacked():
    start, first = gif_parts(PALETTE)
    _, large = gif_parts(Image.new("P", (20_000, 4_000)))
    _, broken = gif_parts(GREY)
    before = peak_memory()
    for later in (large, broken[: len(broken) // 2], b"no block of a GIF"):
        decoded = decode(start + first + later + b";")
        np.testing.assert_array_equal(decoded, in_rgb(PALETTE))
    assert peak_memory() - before < 50_000


def test_a_gif_of_many_blocks_takes_no_time():
    # Half a megabyte in blocks of 255 bytes, which are followed one by one.
    noise = np.random.default_rng(5).integers(0, 256, (650, 650)).astype(np.uint8)
    contents = encode(Image.fromarray(noise), "GIF")
    assert len(contents) > 500_000
    began = time.perf_counter()
    decoded = decode(contents, 650)
    assert time.perf_counter() - began < 1.5
    np.testing.assert_array_equal(decoded[..., 0], noise)


def test_what_comes_before_the_first_frame_of_a_gif_is_passed_over():
    # A comment of more than one block, the loop count of an animation, a delay.
    contents = encode(
        PALETTE,
        "GIF",
        comment=b"; , ! and more \x00" * 40,
        save_all=True,
        append_images=[GREY],
        loop=3,
        duration=70,
    )
    assert contents.count(b"NETSCAPE2.0") == 1
    np.testing.assert_array_equal(decode(contents), in_rgb(PALETTE))
    assert sizes(contents) == (SIDE, SIDE)


def test_the_palette_of_a_gif_may_be_that_of_its_frame():
    start, frame = gif_parts(PALETTE)
    at = frame.index(b",")
    own = (
        start[:10]
        + bytes([start[10] & 0x7F])
        + start[11:13]
        + frame[: at + 9]
        + bytes([frame[at + 9] | 0x80 | (start[10] & 7)])
        + start[13:]
        + frame[at + 10 :]
        + b";"
    )
    assert Image.open(io.BytesIO(own)).size == (SIDE, SIDE)
    np.testing.assert_array_equal(decode(own), in_rgb(PALETTE))


def test_a_gif_that_is_cut_off_anywhere_is_refused():
    start, frame = gif_parts(PALETTE)
    whole = start + frame
    compiled = tf.function(
        lambda contents: decode_image(contents, SIDE)
    ).get_concrete_function(tf.TensorSpec((), tf.string))
    # Every byte of the headers and of the last block, and some between.
    count = len(whole)
    for end in (*range(20), *range(20, count, 17), *range(count - 20, count)):
        assert decoded_or_none(compiled, whole[:end]) is None, end
    # All is there but the byte that ends the file.
    np.testing.assert_array_equal(compiled(tf.constant(whole)), in_rgb(PALETTE))


MIXED = [
    *(contents for contents, _ in LOSSLESS.values()),
    *JPEGS.values(),
    *DAMAGED.values(),
    *OVERSIZE.values(),
    encode(RGB.resize((21, 9)), "PNG"),
]


def decoded_or_none(decoder, contents):
    try:
        return decoder(tf.constant(contents)).numpy()
    except tf.errors.InvalidArgumentError:
        return None


@pytest.fixture(scope="module")
def eager():
    return [decoded_or_none(lambda c: decode_image(c, 12), c) for c in MIXED]


def assert_equal_results(results, expected):
    for one, other in zip(results, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


def test_a_compiled_function_decodes_as_eagerly(eager):
    compiled = tf.function(
        lambda contents: decode_image(contents, 12),
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    assert compiled.get_concrete_function().output_shapes == (12, 12, 3)
    assert_equal_results([decoded_or_none(compiled, c) for c in MIXED], eager)


def test_a_dataset_decodes_as_eagerly_and_passes_over_what_it_cannot(eager):
    images = tf.data.Dataset.from_tensor_slices(tf.constant(MIXED))
    images = images.map(lambda contents: decode_image(contents, 12))
    assert images.element_spec == tf.TensorSpec((12, 12, 3), tf.uint8)
    sound = [image for image in eager if image is not None]
    assert len(sound) == len(LOSSLESS) + len(JPEGS) + 1
    decoded = list(images.ignore_errors().as_numpy_iterator())
    assert_equal_results(decoded, sound)


def test_a_frame_beside_the_screen_of_a_gif_counts_in_full():
    contents = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    at = contents.index(b",")
    # Left, top, width, height: TensorFlow makes room for the whole of it.
    assert struct.unpack("<4H", contents[at + 1 : at + 9]) == (0, 0, 4, 4)
    contents[at + 1 : at + 5] = struct.pack("<2H", 300, 20)
    height, width = declared_size(tf.constant(bytes(contents)))
    assert (int(height), int(width)) == (24, 304)


def test_a_bitmap_that_does_not_count_its_palette_has_256_colours(rng):
    colours = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    image = Image.new("P", (16, 16))
    image.putpalette(colours.tobytes())
    image.putdata(list(range(256)))
    contents = bytearray(encode(image, "BMP"))
    assert struct.unpack("<I", contents[46:50]) == (256,)
    contents[46:50] = bytes(4)
    decoded = decode_image(tf.constant(bytes(contents)), 16).numpy()
    np.testing.assert_array_equal(decoded, colours.reshape(16, 16, 3))


# Resizing.


def random_images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_the_same_size_passes_fractions_unchanged():
    images = np.random.default_rng(0).uniform(0, 255, (3, 7, 7, 3)).astype(np.float32)
    resized = resize_images(images, 7)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized.numpy(), images)


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (33, 33)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_other_sizes_land_on_whole_numbers_as_tensorflow_rounds(size, dtype):
    images = random_images((4, *size, 3)).astype(dtype)
    resized = resize_images(images, 32).numpy()
    bilinear = tf.image.resize(images, (32, 32), antialias=True).numpy()
    np.testing.assert_array_equal(resized, np.clip(np.rint(bilinear), 0, 255))
    assert resized.shape == (4, 32, 32, 3)
    assert (bilinear != np.rint(bilinear)).any()
    np.testing.assert_array_equal(resized, resized.astype(np.uint8))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[0, 100], [100, 200]], 100),
        ([[0, 0], [0, 1]], 0),  # 0.25
        ([[0, 0], [1, 1]], 0),  # 0.5: halves go to the even number
        ([[1, 1], [2, 2]], 2),  # 1.5
        ([[255, 255], [255, 254]], 255),  # 254.75
    ],
)
def test_two_by_two_pixels_shrink_to_their_rounded_mean(pixels, expected):
    images = np.array(pixels, np.uint8).reshape(1, 2, 2, 1)
    assert resize_images(images, 1).numpy().item() == expected


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((20, 9), (slice(5, 14), slice(None))),  # (20 - 9) // 2 = 5
        ((9, 20), (slice(None), slice(5, 14))),
        ((10, 9), (slice(0, 9), slice(None))),
        ((1, 6), (slice(None), slice(2, 3))),
    ],
)
@pytest.mark.parametrize("target", [4, 9, 12])
def test_the_central_square_is_resized(shape, window, target):
    images = random_images((2, *shape, 3))
    square = images[:, window[0], window[1]]
    np.testing.assert_array_equal(
        resize_images(images, target).numpy(),
        resize_images(square, target).numpy(),
    )


def test_a_long_thin_image_is_cropped_before_it_is_enlarged():
    thin = random_images((1, 1, 2_000_000, 3))
    assert resize_images(thin, 64).shape == (1, 64, 64, 3)


def test_resized_values_outside_the_scale_are_clipped():
    images = np.array([-7.0, 300.0, 128.0], np.float32).reshape(1, 1, 1, 3)
    resized = resize_images(images, 2).numpy()
    assert resized[0, 0, 0].tolist() == [0.0, 255.0, 128.0]


def test_sizes_unknown_until_the_call_give_the_same_pixels():
    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    compiled = tf.function(
        lambda images: resize_images(images, 8), input_signature=signature
    )
    assert compiled.get_concrete_function().output_shapes == (None, 8, 8, 3)
    for size in ((8, 8), (9, 8), (20, 3)):
        images = random_images((2, *size, 3))
        np.testing.assert_array_equal(
            compiled(images).numpy(), resize_images(images, 8).numpy()
        )

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from alignclip_core.errors import ImageRejected
from alignclip_core.images import ImageLimits, decode_image


def encoded(image: Image.Image, format_name: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels: whoever decodes it fails, whoever reads the header does not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns * 4, rows * 6, columns + rows], -1).astype(np.uint8))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_allowed_format_decodes_to_rgb(format_name):
    image = decode_image(encoded(gradient(), format_name))
    assert image.mode == "RGB"
    assert image.size == (60, 40)
    difference = np.asarray(image).astype(int) - np.asarray(gradient()).astype(int)
    assert np.abs(difference).mean() < 12  # GIF has 256 colours


@pytest.mark.parametrize("format_name", ["TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused_with_the_allowed_ones(format_name):
    with pytest.raises(ImageRejected, match="JPEG, PNG, WEBP, GIF, BMP"):
        decode_image(encoded(gradient(), format_name))


def test_text_is_no_image():
    with pytest.raises(ImageRejected, match="no image of a known format"):
        decode_image(b"<html>not an image</html>")


def test_an_empty_file_is_named_as_empty():
    with pytest.raises(ImageRejected, match="0 bytes"):
        decode_image(b"")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_cut_off_image_is_refused(format_name):
    content = encoded(gradient(300, 200), format_name)
    with pytest.raises(ImageRejected, match=r"damaged|cut off"):
        decode_image(content[: len(content) * 2 // 3])


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (12_500, 8_000), (60_000, 60_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(width, height):
    with pytest.raises(ImageRejected, match=r"(megapixels|too many pixels).*scale it down"):
        decode_image(png_header_only(width, height))


def test_the_same_header_within_the_limits_is_refused_for_its_missing_pixels():
    with pytest.raises(ImageRejected, match="damaged"):
        decode_image(png_header_only(100, 100))


def test_a_limit_of_bytes_is_told_with_both_numbers():
    with pytest.raises(ImageRejected, match="at most 100 are allowed"):
        decode_image(encoded(gradient()), ImageLimits(max_bytes=100))


def test_a_strip_that_scaling_would_blow_up_is_refused():
    with pytest.raises(ImageRejected, match="crop it"):
        decode_image(encoded(Image.new("RGB", (5000, 2))))


def test_exif_orientation_is_applied():
    sideways = Image.new("RGB", (60, 40), "blue")
    sideways.paste("red", (0, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright = decode_image(encoded(sideways, "JPEG", exif=exif, quality=95))
    assert upright.size == (40, 60)
    assert upright.getpixel((35, 30))[0] > 200  # the upper half is the right half now
    assert upright.getpixel((5, 30))[2] > 200


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF")
def test_damaged_exif_does_not_refuse_the_pixels():
    content = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode_image(content).size == (60, 40)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(format_name):
    image = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (10, 0, 20, 10))
    decoded = decode_image(encoded(image, format_name, **({"lossless": True} if format_name == "WEBP" else {})))
    assert decoded.getpixel((2, 5)) == (255, 255, 255)
    assert decoded.getpixel((15, 5)) == (0, 0, 255)


def test_a_transparent_palette_is_laid_on_white():
    image = Image.new("P", (20, 10), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (10, 0, 20, 10))
    decoded = decode_image(encoded(image, "GIF", transparency=0))
    assert decoded.getpixel((2, 5)) == (255, 255, 255)
    assert decoded.getpixel((15, 5)) == (0, 255, 0)


def test_sixteen_bit_grey_keeps_its_tones():
    levels = np.array([[0, 0x4000, 0x8000, 0xFFFF]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(levels.repeat(2, 0))))
    assert [decoded.getpixel((x, 0))[0] for x in range(4)] == [0, 64, 128, 255]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "P"])
def test_every_mode_becomes_rgb(mode):
    format_name = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(gradient().convert(mode), format_name)).mode == "RGB"


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content).getpixel((4, 4)) == (255, 0, 0)

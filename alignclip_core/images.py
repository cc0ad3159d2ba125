"""Bytes -> RGB image under limits. One function for the check, for training and for serving. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageOps, UnidentifiedImageError

from alignclip_core.errors import ImageRejected

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_ASPECT_RATIO = 100  # the short side is scaled to the model's size: a longer strip would become a huge image
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # 16 bits a pixel; Pillow reads some PNG of that depth as "I"


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """How large an image may be; `Settings` carries the deployment's own."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()

Decode = Callable[[bytes, ImageLimits], Image.Image]
"""`decode_image`, or what does the same elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a tower's input: fields of open_clip's preprocess_cfg."""

    image_size: int  # pixels, height and width
    mean: tuple[float, ...]  # per channel, on a scale of 0 to 1
    std: tuple[float, ...]
    interpolation: str = "bicubic"  # or bilinear
    resize_mode: str = "shortest"  # short side to image_size, then centre crop; or squash, longest


def decode_image(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """The first frame as RGB: turned upright as its EXIF says, transparency laid on white.

    Raises `ImageRejected`. Size and format are judged by the header, before any pixel is decoded.
    """
    image = open_image(content, limits)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise ImageRejected(f"The {image.format} image is damaged or cut off ({error}); save it again.") from error
    return _on_white(_upright(image))


def open_image(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """The image with its header read and its pixels still undecoded. Raises `ImageRejected`."""
    if not content:
        raise ImageRejected("The image is empty (0 bytes); send the content of an image file.")
    if len(content) > limits.max_bytes:
        raise ImageRejected(
            f"The image has {len(content):,} bytes; at most {limits.max_bytes:,} are allowed: "
            "scale it down or compress it."
        )
    try:
        image = Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageRejected(f"The bytes are no image of a known format; send one of {', '.join(FORMATS)}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRejected(
            f"The image has too many pixels; at most {limits.max_pixels:,} are allowed: scale it down."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise ImageRejected(f"The image's header is damaged ({error}); save it again.") from error
    _check_size(image, limits)
    return image


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageRejected(
            f"The image is {width} x {height} = {width * height / 1e6:.1f} megapixels; "
            f"at most {limits.max_pixels / 1e6:.1f} are allowed: scale it down."
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageRejected(
            f"The image is {width} x {height} pixels; no side may be over {MAX_ASPECT_RATIO} times the other: crop it."
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF raises whatever its bytes lead to, and the pixels are fine without it
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_GREY:
        image = image.convert("I").point(lambda level: level * (1 / 256)).convert("L")  # Pillow would clip at 255
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

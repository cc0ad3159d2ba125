"""A matrix as a picture: one square per pair of classes, with the names beside it while they can be read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_LABELLED_CLASSES = 60
MAX_SIDE = 2000  # pixels; larger matrices are averaged down
LABEL_CHARACTERS = 28
FONT_SIZE = 13

# Nine steps of viridis, which orders by lightness too: it can be read in grey and by the colour-blind.
VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137),
           (53, 183, 121), (110, 206, 88), (253, 231, 37))  # fmt: skip


def draw_heat_map(matrix: np.ndarray, names: Sequence[str], *, title: str) -> bytes:
    """PNG of a square matrix, its darkest colour the smallest value; a caption says which value is which colour."""
    has_labels = len(names) <= MAX_LABELLED_CLASSES
    cell = max(1, min(24, MAX_SIDE // len(names)))
    squares = _squares(matrix, cell)
    font = ImageFont.load_default(FONT_SIZE)
    labels = [_shorten(name) for name in names] if has_labels else []
    label_width = max((int(font.getlength(label)) for label in labels), default=0) + 12
    head = 2 * FONT_SIZE + 16
    caption = f"{matrix.min():.3f} (dark) to {matrix.max():.3f} (bright)"
    width = max(label_width + squares.width + 12, int(max(font.getlength(title), font.getlength(caption))) + 24)
    picture = Image.new("RGB", (width, head + squares.height + label_width), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((12, 6), title, fill="black", font=font)
    draw.text((12, 8 + FONT_SIZE), caption, fill="dimgray", font=font)
    picture.paste(squares, (label_width, head))
    for index, label in enumerate(labels):
        middle = head + index * cell + cell // 2
        draw.text((label_width - 6, middle), label, fill="black", font=font, anchor="rm")
        _draw_upward(picture, label, label_width + index * cell + cell // 2, head + squares.height + 6, font)
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _squares(matrix: np.ndarray, cell: int) -> Image.Image:
    low, high = float(matrix.min()), float(matrix.max())
    share = (matrix - low) / (high - low) if high > low else np.zeros_like(matrix)
    stops = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(share, stops, [colour[channel] for colour in VIRIDIS]) for channel in range(3)]
    image = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    side = min(len(matrix) * cell, MAX_SIDE)
    shrinks = side < len(matrix)
    return image.resize((side, side), Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST)


def _draw_upward(
    picture: Image.Image, text: str, x: int, y: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    """Text from top to bottom, its middle line at x, its start at y."""
    left, _, right, bottom = font.getbbox(text)
    strip = Image.new("L", (int(right - left) or 1, int(bottom) + 2), 0)
    ImageDraw.Draw(strip).text((-left, 0), text, fill=255, font=font)
    turned = strip.transpose(Image.Transpose.ROTATE_270)
    picture.paste("black", (x - turned.width // 2, y), turned)


def _shorten(name: str) -> str:
    """The name as Pillow's font can write it: it has no accents."""
    name = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    return name if len(name) <= LABEL_CHARACTERS else f"{name[: LABEL_CHARACTERS - 1]}…"

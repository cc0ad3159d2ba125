"""Maps as colours over the image. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHARE_OF_COLOUR = 0.55  # of the map; the rest is the image
FONT_SIZE = 13
GAP = 8  # pixels
PICTURE_SIDE = 224  # pixels, at least: a tower's own image may be smaller
# From blue over green to red, as maps of attention are mostly drawn.
COLOURS = ((48, 18, 130), (40, 120, 240), (30, 200, 160), (170, 240, 60), (250, 170, 40), (190, 30, 20))


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """The image under the colours of a map [rows, columns] of 0..1, scaled up smoothly to the image's size."""
    grid = Image.fromarray(values.astype(np.float32))  # mode F: scaled up as numbers, before they become colours
    share = np.clip(np.asarray(grid.resize(image.size, Image.Resampling.BICUBIC)), 0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, stops, [colour[channel] for colour in COLOURS]) for channel in range(3)]
    colours = Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
    return Image.blend(image, colours, SHARE_OF_COLOUR)


def overview(rows: Mapping[str, Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """All pictures in one: a row of equal pictures under each name, a title over each column."""
    font = ImageFont.load_default(FONT_SIZE)
    side = next(iter(rows.values()))[0].width
    head = FONT_SIZE + 2 * GAP
    width = GAP + len(titles) * (side + GAP)
    sheet = Image.new("RGB", (width, head + len(rows) * (side + head)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (side + GAP), GAP), title, fill="black", font=font)
    for row, (name, pictures) in enumerate(rows.items()):
        top = head + row * (side + head)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (GAP + column * (side + GAP), top))
        draw.text((GAP, top + side + GAP // 2), name, fill="dimgray", font=font)
    return sheet

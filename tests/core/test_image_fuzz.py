"""Images that were good until bytes of them changed: each decodes to a plain picture or is refused in words."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alignclip_core.errors import ImageRejected
from alignclip_core.images import FORMATS, ImageLimits, decode_image
from tests.mutation import mutations

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=40_000)


def _image(form: str, mode: str) -> bytes:
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    options = {"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}
    if form == "GIF":
        options = {"save_all": True, "append_images": [pixels.rotate(90)], "transparency": 0}
    buffer = io.BytesIO()
    pixels.save(buffer, form, **options)
    return buffer.getvalue()


SEEDS = [pytest.param(_image(form, "P" if form == "GIF" else "RGB"), id=form) for form in FORMATS]
SEEDS += [pytest.param(_image("PNG", mode), id=f"PNG-{mode}") for mode in ("P", "LA", "I;16")]
SEEDS += [pytest.param(_image("JPEG", "CMYK"), id="JPEG-CMYK")]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_image_decodes_or_is_refused(seed: bytes) -> None:
    _fuzz(seed, num_examples=120)


@pytest.mark.fuzz
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
def test_thousands_of_changed_images_decode_or_are_refused(seed: bytes) -> None:
    _fuzz(seed, num_examples=2_000)


def _fuzz(seed: bytes, *, num_examples: int) -> None:
    @settings(
        max_examples=num_examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(content=st.one_of(mutations(seed), st.binary(max_size=200)))
    def check(content: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in the service, where Pillow's doubts about metadata end nothing
            try:
                image = decode_image(content, LIMITS)
            except ImageRejected:
                return
        assert image.mode == "RGB"
        assert image.width * image.height <= LIMITS.max_pixels

    check()

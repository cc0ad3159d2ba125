import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from alignclip_core.errors import ImageRejected
from alignclip_core.images import DEFAULT_LIMITS, Preprocessing, decode_image
from alignclip_core.pixels import crop_box, decode_pixels, normalise, prepare_image, random_crop, to_pixels


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with some detail, like a photo and unlike noise."""
    generator = np.random.default_rng(width * height)
    coarse = Image.fromarray(generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    "content",
    [
        encoded(photo(97, 61), "JPEG"),
        encoded(photo(97, 61), "JPEG", quality=30, subsampling=2),
        encoded(photo(97, 61), "JPEG", progressive=True),
        encoded(photo(97, 61).convert("L"), "JPEG"),
        encoded(photo(97, 61).convert("CMYK"), "JPEG"),
        encoded(photo(97, 61), "JPEG", exif=turned()),
        encoded(photo(97, 61), "JPEG", exif=b"Exif\0\0damaged"),
        encoded(photo(97, 61), "PNG"),
        encoded(photo(97, 61), "PNG", exif=turned()),
        encoded(photo(97, 61).convert("RGBA"), "WEBP", lossless=True),
    ],
    ids=["jpeg", "coarse", "progressive", "grey", "cmyk", "turned", "damaged exif", "png", "turned png", "webp"],
)
def test_pixels_of_training_are_those_of_the_picture(content):
    assert torch.equal(decode_pixels(content, DEFAULT_LIMITS), to_pixels(decode_image(content)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_jpeg_that_was_cut_off_is_refused_in_the_words_of_the_check(share):
    content = encoded(photo(200, 150), "JPEG")
    with pytest.raises(ImageRejected) as ours:
        decode_pixels(content[: int(len(content) * share)], DEFAULT_LIMITS)
    with pytest.raises(ImageRejected) as theirs:
        decode_image(content[: int(len(content) * share)])
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_crop_agrees_with_pillow_within_one_level(interpolation):
    image = photo(500, 375)
    for number in range(5):
        crop = random_crop(
            to_pixels(image),
            224,
            scale=(0.7, 1.0),
            horizontal_flip=False,
            interpolation=InterpolationMode(interpolation),
            random=np.random.default_rng(number),
        )
        # The same draws, applied by Pillow.
        left, top, width, height = crop_box(500, 375, (0.7, 1.0), np.random.default_rng(number))
        filter_name = Image.Resampling[interpolation.upper()]
        expected = image.crop((left, top, left + width, top + height)).resize((224, 224), filter_name)
        difference = crop.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected)).int()
        assert difference.abs().max() <= 1


def test_crops_keep_the_share_of_the_area_and_half_of_them_are_mirrored():
    # A picture whose red is the column and whose green is the row: a crop tells where it came from.
    rows, columns = np.mgrid[0:200, 0:250]
    image = Image.fromarray(np.stack([columns, rows, columns * 0], -1).astype(np.uint8))
    shares, mirrored = [], 0
    for number in range(200):
        crop = random_crop(
            to_pixels(image),
            64,
            scale=(0.5, 0.8),
            horizontal_flip=True,
            interpolation=InterpolationMode.BILINEAR,
            random=np.random.default_rng(number),
        ).float()
        across, down = crop[0, 32, -1] - crop[0, 32, 0], crop[1, -1, 32] - crop[1, 0, 32]
        mirrored += int(across < 0)
        shares.append(float(across.abs() * down) / (63 / 64) ** 2 / (200 * 250))
    assert 0.47 < min(shares) < 0.55
    assert 0.75 < max(shares) < 0.83
    assert 70 < mirrored < 130


@pytest.mark.parametrize("size", [(400, 3), (3, 400)])
def test_a_strip_that_no_ratio_fits_gives_its_middle(size):
    crop = random_crop(
        to_pixels(Image.new("RGB", size, "red")),
        32,
        scale=(0.9, 1.0),
        horizontal_flip=True,
        interpolation=InterpolationMode.BICUBIC,
        random=np.random.default_rng(0),
    )
    assert crop.shape == (3, 32, 32)
    assert (crop[0] == 255).all()


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(300, 200), (200, 333), (224, 224), (64, 64), (50, 40), (451, 97), (1999, 1333)])
def test_evaluation_pixels_are_those_of_open_clip_within_one_level(resize_mode, interpolation, size):
    image = photo(*size)
    preprocessing = Preprocessing(
        image_size=64,
        mean=(0.48, 0.46, 0.41),
        std=(0.27, 0.26, 0.28),
        interpolation=interpolation,
        resize_mode=resize_mode,
    )
    transform = open_clip.image_transform(
        64,
        is_train=False,
        mean=preprocessing.mean,
        std=preprocessing.std,
        interpolation=interpolation,
        resize_mode=resize_mode,
    )
    ours = normalise(prepare_image(image, preprocessing)[None], preprocessing)[0]
    torch.testing.assert_close(ours, transform(image), rtol=0, atol=1.001 / (255 * min(preprocessing.std)))

import io
import unicodedata
from collections import Counter

import pytest
from PIL import Image

from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.images import decode_image
from tools.demo.classes import CLASS_NAMES, CLASSES, UNSEEN_CLASSES
from tools.demo.pictures import (
    ATTRIBUTION_FILE,
    NEW_STYLE,
    TRAINED_STYLE,
    all_pictures,
    draw_openmoji,
    draw_pictures,
    noto_drawer,
    openmoji_file,
)

FEW = [picture for picture in all_pictures() if picture.class_name in ("boat", "cat")]
MODIFIERS = {"Mn", "Cf", "Sk"}  # variation selectors, joiners, skin tones: a class lists single signs alone


def test_no_emoji_stands_twice():
    counts = Counter(emoji for emojis in CLASSES.values() for emoji in emojis)
    assert [emoji for emoji, count in counts.items() if count > 1] == []


def test_each_class_has_enough_emojis_to_train_and_to_hold_out():
    assert len(CLASSES) >= 20
    assert {name: len(emojis) for name, emojis in CLASSES.items() if len(emojis) < 7} == {}


def test_every_sign_is_an_emoji_of_its_own():
    assert [e for emojis in CLASSES.values() for e in emojis if unicodedata.category(e) in MODIFIERS] == []


def test_every_third_class_in_the_alphabet_is_unseen():
    assert set(UNSEEN_CLASSES) < set(CLASSES)
    assert [sorted(CLASSES).index(name) % 3 for name in UNSEEN_CLASSES] == [2] * (len(CLASSES) // 3)


def test_class_names_can_be_said():
    assert list(CLASS_NAMES) == list(CLASSES)
    for name in CLASS_NAMES.values():
        assert name == name.lower().strip()
        assert name.replace(" ", "").isalpha()


def test_layout_has_every_class_in_both_styles(folder):
    layout = read_layout(list_folder(folder))
    assert layout.domains == (NEW_STYLE, TRAINED_STYLE)
    assert {(sample.domain, sample.class_name) for sample in layout.samples} == {
        (domain, name) for domain in layout.domains for name in CLASSES
    }
    assert [sample.path for sample in layout.samples] == [picture.path for picture in all_pictures()]


def test_pictures_decode_in_one_size_on_white_and_none_is_empty(folder):
    for picture in all_pictures():
        image = decode_image((folder / picture.path).read_bytes())
        assert image.size == (224, 224), picture
        darkest, lightest = image.convert("L").getextrema()
        assert lightest == 255, picture
        assert darkest < 128, picture


def test_no_two_pictures_are_the_same(folder):
    """The same drawing in training and in validation would make a model look better than it is."""
    contents = Counter((folder / picture.path).read_bytes() for picture in all_pictures())
    assert max(contents.values()) == 1


def test_new_style_is_black_on_white_and_the_trained_one_has_colours(folder):
    for picture in all_pictures():
        image = Image.open(io.BytesIO((folder / picture.path).read_bytes()))
        red, green, blue = (channel.tobytes() for channel in image.split())
        if picture.domain == NEW_STYLE:
            assert red == green == blue, picture
    coloured = Image.open(folder / TRAINED_STYLE / "fruit" / "1F34E.png")
    assert coloured.getpixel((112, 140)) != (coloured.getpixel((112, 140))[0],) * 3


def test_pictures_are_drawn_to_the_same_bytes_again(folder):
    draw = {TRAINED_STYLE: draw_openmoji, NEW_STYLE: noto_drawer()}
    for picture in all_pictures()[::25]:
        assert draw[picture.domain](picture.emoji) == (folder / picture.path).read_bytes()


def test_finished_pictures_are_not_drawn_again(folder):
    shown = folder / all_pictures()[0].path
    before = shown.stat().st_mtime_ns
    draw_pictures(folder, all_pictures(), on_progress=lambda num_drawn: pytest.fail("drawn again"))
    assert shown.stat().st_mtime_ns == before


def test_half_drawn_pictures_are_drawn_anew(tmp_path):
    folder = tmp_path / "pictures"

    def stop(num_drawn):
        if num_drawn == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_pictures(folder, FEW, on_progress=stop)
    assert not folder.exists()
    draw_pictures(folder, FEW)
    assert len(read_layout(list_folder(folder)).samples) == len(FEW)


def test_other_pictures_take_the_place_of_the_old_ones(tmp_path):
    draw_pictures(tmp_path / "pictures", FEW)
    draw_pictures(tmp_path / "pictures", FEW[1:])
    samples = read_layout(list_folder(tmp_path / "pictures")).samples
    assert [sample.path for sample in samples] == [picture.path for picture in FEW[1:]]


def test_attribution_lies_beside_the_pictures(folder):
    text = (folder / ATTRIBUTION_FILE).read_text()
    assert "OpenMoji" in text
    assert "CC BY-SA 4.0" in text
    assert "Noto Emoji, Copyright" in text
    assert "SIL Open Font License" in text


def test_sign_that_a_style_has_not_is_named():
    with pytest.raises(KeyError, match="Q"):
        openmoji_file("Q")
    with pytest.raises(KeyError):
        noto_drawer()("漢")

"""DomainBed's sets, ImageNet and its variants, UCF101: real files laid out as they are published, lists beside them."""

from io import BytesIO

import pytest
from PIL import Image

from alignclip_core.dataset.check import check_images
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.listing import read_folder

TENCH, FOX, VULTURE, MONARCH = "n01440764", "n02119022", "n01616318", "n02279972"
DOMAINBED = {
    "PACS": ("art_painting", "cartoon", "photo", "sketch"),
    "VLCS": ("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    "office_home": ("Art", "Clipart", "Product", "Real World"),
    "terra_incognita": ("location_100", "location_38", "location_43", "location_46"),
    "domain_net": ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
}
VARIANTS = {  # folders of images, files that lie beside them, names of the classes
    "imagenet": (
        [f"{part}/{folder}" for part in ("train", "val") for folder in (TENCH, FOX)],
        ["classnames.txt", "LOC_synset_mapping.txt"],
        {TENCH: "tench", FOX: "red fox"},
    ),
    "imagenet-sketch": ([f"sketch/{TENCH}", f"sketch/{FOX}"], [], {TENCH: "tench", FOX: "red fox"}),
    "imagenet-a": (
        [f"imagenet-a/{VULTURE}", f"imagenet-a/{MONARCH}"],
        ["imagenet-a/README.txt"],
        {VULTURE: "vulture", MONARCH: "monarch butterfly"},
    ),
    "imagenet-r": ([f"imagenet-r/{TENCH}", f"imagenet-r/{VULTURE}"], ["imagenet-r/README.txt"], {TENCH: "tench"}),
}


def picture() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (12, 9), "navy").save(buffer, "JPEG")
    return buffer.getvalue()


def publish(root, folders, others=(), name="{}_1.JPEG"):
    """A real image in each folder, and the other files with words in them."""
    content = picture()
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name.format(folder.replace("/", "_"))).write_bytes(content)
    for other in others:
        (root / other).write_text("a list\n")
    return root


def read(root):
    """The layout, whose images all decode."""
    layout = read_folder(root)
    assert check_images(root, layout.samples) == []
    return layout


@pytest.mark.parametrize("name", DOMAINBED)
def test_a_set_of_domainbed(tmp_path, name):
    folders = [f"{name}/{domain}/{label}" for domain in DOMAINBED[name] for label in ("dog", "Alarm_Clock")]
    lists = [f"{name}/{DOMAINBED[name][0]}_train.txt", f"{name}/README.md"]
    layout = read(publish(tmp_path, folders, lists, name="pic {}.jpg"))
    assert layout.domains == DOMAINBED[name]
    assert layout.class_names == ("Alarm_Clock", "dog")
    assert layout.ignored == tuple(sorted(lists))
    assert {sample.path.split("/")[1] for sample in layout.samples} == {sample.domain for sample in layout.samples}


@pytest.mark.parametrize("name", VARIANTS)
def test_imagenet_and_its_variants_have_imagenets_names(tmp_path, name):
    folders, others, names = VARIANTS[name]
    layout = read(publish(tmp_path, folders, others))
    assert resolve_class_names(layout, None).items() >= names.items()
    assert layout.domains == ()
    splits = {sample.split for sample in layout.samples}
    assert splits == ({"train", "test"} if name == "imagenet" else {""})


def test_imagenet_v2s_numbered_folders_are_imagenets_classes(tmp_path):
    folders = [f"imagenetv2-matched-frequency-format-val/{number}" for number in range(1000)]
    layout = read(publish(tmp_path, folders, name="{}.jpeg"))
    names = resolve_class_names(layout, None)
    own = {sample.path.split("/")[1]: names[sample.class_name] for sample in layout.samples}
    assert (own["0"], own["277"], own["999"]) == ("tench", "red fox", "toilet paper")
    assert len(set(names.values())) == 1000


def test_ucf101s_middle_frames(tmp_path):
    folders = [f"UCF-101-midframes/{label}" for label in ("Apply_Eye_Makeup", "Yo_Yo")]
    layout = read(publish(tmp_path, folders, name="v_{}_g01_c01.jpg"))
    assert layout.class_names == ("Apply_Eye_Makeup", "Yo_Yo")

"""WebDataset shards, and labels of them that cannot be used."""

from io import BytesIO

import pytest

from alignclip_core.dataset.reading import read_dataset
from alignclip_core.errors import DatasetInvalid


class Files:
    """Members of shards in memory."""

    def __init__(self, contents) -> None:
        self.contents = contents
        self.sizes = {name: len(content) for name, content in contents.items()}

    def open(self, path):
        return BytesIO(self.contents[path])


def read(**changed):
    contents = {"0.jpg": b"", "0.cls": b"0", "1.jpg": b"", "1.cls": b"1"}
    return read_dataset(Files({f"a.tar/{name}": content for name, content in (contents | changed).items()}))


def test_cls_comes_before_txt_and_json_and_json_has_domain_and_split():
    layout = read(
        **{
            "0.txt": b"a caption",
            "2.png": b"",
            "2.txt": b"bird\n",
            "2.json": b'{"domain": "art", "split": "val"}',
            "3.seg.png": b"",
            "3.jpeg": b"",
            "3.json": b'{"label": "emu", "domain": "photo"}',
        }
    )
    assert [(each.path, each.class_name, each.domain, each.split) for each in layout.samples] == [
        ("a.tar/0.jpg", "0", "", ""),
        ("a.tar/1.jpg", "1", "", ""),
        ("a.tar/2.png", "bird", "art", "validation"),
        ("a.tar/3.jpeg", "emu", "photo", ""),
    ]


def test_captions_beside_the_images_of_class_folders_make_no_shards_of_them():
    names = [f"{label}/{n}.{suffix}" for label in ("cat", "dog") for n in (1, 2) for suffix in ("jpg", "txt")]
    assert read_dataset(Files(dict.fromkeys(names, b"a caption"))).class_names == ("cat", "dog")
    flat = {"1.jpg": b"", "1.txt": b"cat", "2.jpg": b"", "2.txt": b"dog"}
    assert read_dataset(Files(flat)).class_names == ("cat", "dog")


def test_numbers_are_lines_of_classnames():
    layout = read(**{"classnames.txt": b"tench\ngreat white shark\n"})
    assert layout.class_names == ("great white shark", "tench")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"0.cls": b""}, r"a\.tar/0\.cls: label is empty"),
        ({"0.cls": b"\xff"}, r"a\.tar/0\.cls: it is no UTF-8"),
        ({"0.cls": bytes(1 << 17)}, r"a\.tar/0\.cls: a label of 131,072 bytes"),
        ({"0.cls": b"7", "classnames.txt": b"a\nb"}, r"a\.tar/0\.cls: class 7, but classnames\.txt names 2 classes"),
        ({"classnames.txt": b"a\n\nb"}, r"classnames\.txt, line 2: label is empty"),
        ({"2.jpg": b"", "2.json": b"{"}, r"a\.tar/2\.json: it is no JSON"),
        ({"2.jpg": b"", "2.json": b"[]"}, r"a\.tar/2\.json: wanted an object"),
        ({"2.jpg": b"", "2.json": b'{"label": "x", "split": "some"}'}, r"2\.json: split is 'some'"),
    ],
)
def test_what_is_wrong_is_named_with_its_shard_and_member(changed, message):
    with pytest.raises(DatasetInvalid, match=message):
        read(**changed)

"""Manifests, and every way in which one can be wrong."""

import json
from io import BytesIO

import pyarrow
import pytest
from pyarrow import parquet

from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Sample
from alignclip_core.errors import DatasetInvalid

ROWS = [
    {"image": "a/1.jpg", "label": "cat", "domain": "art", "split": "train"},
    {"image": "a/2.jpg", "label": "dog", "domain": "art", "split": "test"},
    {"image": "b/1.jpg", "label": "cat", "domain": "photo", "split": "val"},
]
SAMPLES = (
    Sample("a/1.jpg", "cat", "art", split="train"),
    Sample("a/2.jpg", "dog", "art", split="test"),
    Sample("b/1.jpg", "cat", "photo", split="validation"),
)


class Files:
    """A dataset in memory."""

    def __init__(self, **contents: bytes) -> None:
        self.contents = {"a/1.jpg": b"", "a/2.jpg": b"", "b/1.jpg": b"", "b/2.jpg": b""} | contents
        self.sizes = {name: len(content) for name, content in self.contents.items()}

    def open(self, path):
        return BytesIO(self.contents[path])


def csv_of(rows) -> bytes:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    return "\n".join(lines).encode()


def jsonl_of(rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def parquet_of(rows) -> bytes:
    buffer = BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


FORMS = {"csv": csv_of, "jsonl": jsonl_of, "parquet": parquet_of}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_samples(form):
    layout = read_dataset(Files(**{f"manifest.{form}": FORMS[form](ROWS)}))
    assert layout.samples == SAMPLES
    assert layout.class_names == ("cat", "dog")
    assert layout.domains == ("art", "photo")
    assert layout.ignored == ("b/2.jpg",)


@pytest.mark.parametrize("form", FORMS)
def test_domain_and_split_may_be_left_out(form):
    rows = [{"image": row["image"], "label": row["label"]} for row in ROWS]
    layout = read_dataset(Files(**{f"manifest.{form}": FORMS[form](rows)}))
    assert layout.domains == ()
    assert {sample.split for sample in layout.samples} == {""}


def test_paths_are_relative_to_the_manifest():
    files = Files(**{"a/manifest.csv": b"image,label\n1.jpg,cat\n./2.jpg,dog\n"})
    assert [sample.path for sample in read_dataset(files).samples] == ["a/1.jpg", "a/2.jpg"]


def test_hugging_faces_metadata_and_a_byte_order_mark_are_read():
    files = Files(**{"metadata.csv": b"\xef\xbb\xbffile_name,label\na/1.jpg,cat\na/2.jpg,dog\n"})
    assert len(read_dataset(files).samples) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.csv", b"picture,label\na/1.jpg,cat", "manifest.csv, line 1: there is no column 'image'"),
        ("manifest.csv", b"image,class\na/1.jpg,cat", "manifest.csv, line 1: there is no column 'label'"),
        ("manifest.csv", b"", "manifest.csv, line 1: there is no column 'image'; found: none"),
        ("manifest.csv", b"image,label\na/1.jpg,cat\n../x.jpg,cat", "manifest.csv, line 3: image '../x.jpg' leads out"),
        ("manifest.csv", b"image,label\n/etc/passwd,cat", "manifest.csv, line 2: image '/etc/passwd' leads out"),
        ("manifest.csv", b"image,label\nC:/x.jpg,cat", "line 2: image 'C:/x.jpg' leads out"),
        ("manifest.csv", b"image,label\na\\1.jpg,cat", "line 2: image 'a\\\\\\\\1.jpg' leads out"),
        ("manifest.csv", b"image,label\na/9.jpg,cat", "line 2: there is no image 'a/9.jpg' in the dataset"),
        ("manifest.csv", b"image,label\na/1.jpg,  ", "line 2: label is empty"),
        ("manifest.csv", b"image,label\n,cat", "line 2: image is empty"),
        ("manifest.csv", b"image,label\na/1.jpg,cat\na/2.jpg", "line 3: the row has 1 values, the header 2 columns"),
        ("manifest.csv", b"image,label\na/1.jpg,cat\na/1.jpg,dog", "line 3: .* was named before, at .*line 2"),
        ("manifest.csv", b"image,label,split\na/1.jpg,cat,holdout", "line 2: split is 'holdout'; wanted train"),
        ("manifest.csv", b"image,label\na/1.jpg,\xff\xfe", "line 2: it is no UTF-8"),
        ("manifest.csv", b"image,label\na/1.jpg," + b"x" * 1000, "line 2: label is 'x"),
        ("manifest.csv", b"image,label\na/1.jpg," + b"x" * 200_000, "line 2: it is no CSV"),
        ("manifest.csv", b"image,label\na/1.jpg," + b"x" * 2_000_000, "line 2: it is longer than 1,048,576 bytes"),
        ("manifest.csv", b'image,label\na/1.jpg,"cat', "it is no CSV"),
        ("manifest.csv", b"image,label\na/1.jpg,c\x1bt", "line 2: label is"),
        ("manifest.jsonl", b'{"image": "a/1.jpg", "label": "cat"}\n{"image"', "manifest.jsonl, line 2: it is no JSON"),
        ("manifest.jsonl", b"[1]", "line 1: wanted an object"),
        ("manifest.jsonl", b"[" * 100_000, "line 1: it is no JSON"),
        ("manifest.jsonl", b'{"image": "a/1.jpg", "label": ["cat"]}', "line 1: label is list, wanted text"),
        ("manifest.jsonl", b'{"image": 7, "label": "cat"}', "line 1: image is no text"),
        ("manifest.parquet", b"PAR1 no", "manifest.parquet: it is no readable Parquet file"),
        ("manifest.parquet", parquet_of([{"image": "a/1.jpg", "label": None}]), "parquet, row 1: label is empty"),
        ("manifest.parquet", parquet_of([{"path": "a/1.jpg"}]), "manifest.parquet: there is no column 'image'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_file_and_line(name, content, message):
    with pytest.raises(DatasetInvalid, match=message):
        read_dataset(Files(**{name: content}))


def test_one_class_is_too_few():
    with pytest.raises(DatasetInvalid, match="one class only, 'cat'"):
        read_dataset(Files(**{"manifest.csv": b"image,label\na/1.jpg,cat"}))

"""Manifests, and every way in which one can be wrong."""

import json
from base64 import b64encode
from dataclasses import replace
from io import BytesIO

import pyarrow
import pytest
from pyarrow import parquet

from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.listing import Listing, read_staged, save_listing
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Sample
from alignclip_core.errors import DatasetInvalid, ImageRejected
from alignclip_core.images import DEFAULT_LIMITS

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


def uri_of(content: bytes, kind="png") -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def test_a_parquet_file_that_is_named_is_a_manifest_or_holds_the_images_itself():
    rows = ({"image": "a/1.jpg", "label": "cat"}, {"image": "a/2.jpg", "label": "dog"})
    images = parquet_of([row | {"image": row["image"].encode()} for row in rows])
    files = Files(**{"manifest.parquet": parquet_of(rows), "metadata.parquet": images, "others.parquet": images})
    listed = read_dataset(files, manifest="manifest.parquet").samples
    assert listed == (Sample("a/1.jpg", "cat"), Sample("a/2.jpg", "dog"))
    held = read_dataset(files, manifest="metadata.parquet").samples
    assert [sample.path for sample in held] == ["metadata.parquet/0000000", "metadata.parquet/0000001"]


def test_images_may_stand_in_the_lines_of_a_jsonl_themselves(tmp_path):
    pictures = [bytes([number]) * (50 + number) for number in range(3)]
    rows = [{"label": "cät", "image": uri_of(pictures[0])}, {"image": "1.jpg", "label": "dog"}]
    rows += [{"image": uri_of(pictures[1], "svg+xml"), "label": "dog", "split": "test"}]
    rows += [{"file_name": uri_of(pictures[2]), "label": "dog"}]
    lines = b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
    layout = read_dataset(Files(**{"a/manifest.jsonl": lines}))
    folder = tmp_path / "inputs" / "dataset"
    (folder / "a").mkdir(parents=True)
    (folder / "a/manifest.jsonl").write_bytes(lines)
    (folder / "a/1.jpg").write_bytes(b"a file")
    found = {s.path: (s.class_name, s.split, read_sample(folder, s, DEFAULT_LIMITS)) for s in layout.samples}
    assert found == {
        "a/1.jpg": ("dog", "", b"a file"),
        "a/manifest.jsonl/0000000": ("cät", "", pictures[0]),
        "a/manifest.jsonl/0000002": ("dog", "test", pictures[1]),
        "a/manifest.jsonl/0000003": ("dog", "", pictures[2]),
    }
    save_listing(tmp_path / "inputs" / "dataset.json", Listing(layout))
    assert read_staged(folder).samples == layout.samples
    few = replace(DEFAULT_LIMITS, max_bytes=40)
    with pytest.raises(ImageRejected, match="bytes; at most"):
        read_sample(folder, layout.samples[-1], few)


def test_a_row_may_name_its_image_by_the_whole_url_that_it_was_listed_under():
    files = Files(**{"mine.csv": b"image,label\ns3://pets/sets/a/1.jpg,cat\na/2.jpg,dog\n"})
    layout = read_dataset(files, manifest="mine.csv", url="s3://pets/sets")
    assert [sample.path for sample in layout.samples] == ["a/1.jpg", "a/2.jpg"]


@pytest.mark.parametrize("url", ["s3://pets/sets/a/9.jpg", "s3://pets/other/a/1.jpg", "http://169.254.169.254/a/1.jpg"])
@pytest.mark.parametrize("base", [None, "s3://pets/sets"])
def test_no_other_url_is_read_because_a_row_names_it(url, base):
    files = Files(**{"manifest.csv": f"image,label\na/1.jpg,cat\n{url},dog\n".encode()})
    wanted = "one below s3://pets/sets/ that is there, or a path" if base else "a path such as cat/1.jpg"
    with pytest.raises(DatasetInvalid, match=f"manifest.csv, line 3: image '{url}' is no file .*; wanted {wanted}"):
        read_dataset(files, url=base)


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
        ("manifest.jsonl", b'{"image": "data:text/html;base64,AA", "label": "x"}', "line 1: image .* is no data URI"),
        ("manifest.jsonl", b'{"image": "data:image/png;base64,A=A", "label": "x"}', "line 1: image .* is no data URI"),
        ("manifest.jsonl", b'{"image": "data:image/png,AAAA", "label": "x"}', "wanted data:image/png;base64,"),
        ("manifest.jsonl", b'{"image": "data:image/png;base64,A\\/AA", "label": "x"}', "line 1: .* with escapes"),
        ("manifest.csv", b'image,label\n"data:image/png;base64,AAAA",cat', "line 2: an image in a data URI, .* .jsonl"),
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

"""A dataset larger than its cache: fetched while it trains, in the same order and with the same pixels."""

import contextlib
import http.server
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset import streaming
from alignclip_core.dataset.check import check_images, read_sample
from alignclip_core.dataset.files import LocalFiles
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.listing import Listing, listing_file, read_staged, save_listing
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Place
from alignclip_core.errors import DatasetUnreachable, ImageRejected
from alignclip_core.images import DEFAULT_LIMITS, ImageLimits, Preprocessing
from alignclip_core.loading import TrainingSet, iterate_training
from alignclip_core.train import train
from tests.servers import HttpServer

PREPROCESSING = Preprocessing(image_size=32, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


class Server(HttpServer):
    """Serves a folder, knows ranges, counts what was asked for, and fails as told."""

    def __init__(self, root: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.failures: list[int] = []  # statuses of the next answers
        self.knows_ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked[self.path] += 1
                if outer.failures:
                    return self.send_error(outer.failures.pop(0))
                content = (root / self.path.lstrip("/").partition("?")[0]).read_bytes()
                first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
                if outer.knows_ranges:
                    content = content[first : last + 1]
                self.send_response(206 if outer.knows_ranges else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return None

            def log_message(self, *arguments):
                pass

        super().__init__(Handler)


@pytest.fixture
def source(tmp_path, draw_dataset):
    """A folder of pictures."""
    draw_dataset(tmp_path / "source", domains=("plain", "dotted"), num_images=3)
    return tmp_path / "source"


@pytest.fixture
def server(source):
    server = Server(source)
    yield server
    server.stop()


@pytest.fixture
def stage_streamed(tmp_path, source, server):
    """stage_streamed(cache_bytes): a run directory with a list of the pictures at their URLs; its dataset."""

    def stage(cache_bytes: int, name: str = "run") -> Path:
        layout = read_layout(list_folder(source))
        samples = []
        for sample in layout.samples:
            place = Place(f"{server.url}/{sample.path}?signature=1", 0, (source / sample.path).stat().st_size)
            samples.append(replace(sample, place=place))
        folder = tmp_path / name / "inputs" / "dataset"
        save_listing(listing_file(folder), Listing(replace(layout, samples=tuple(samples)), cache_bytes))
        return folder

    return stage


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(streaming, "PAUSE_SECONDS", 0.001)


def training_set(folder: Path, **fields) -> TrainingSet:
    layout = read_staged(folder)
    names = {name: name for name in layout.class_names}
    config = FinetuneConfig(base_model="tiny", class_names=names, **{"global_batch_size": 5} | fields)
    labels = [layout.class_names.index(sample.class_name) for sample in layout.samples]
    return TrainingSet(folder.parent, layout.samples, labels, config, PREPROCESSING, DEFAULT_LIMITS)


def local_set(tmp_path: Path, source: Path) -> TrainingSet:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "dataset").symlink_to(source)
    return training_set(tmp_path / "local" / "dataset")


def size_of(folder: Path) -> int:
    """Bytes of its files; one that goes while it is looked at counts nothing: loader workers evict."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def assert_equal_batches(first, second):
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("num_loader_workers", [0, 2])
def test_a_dataset_larger_than_its_cache_gives_the_batches_of_a_local_one(
    tmp_path, source, server, stage_streamed, num_loader_workers
):
    limit = size_of(source) // 3
    streamed = training_set(stage_streamed(limit), num_loader_workers=num_loader_workers)
    kept = []
    batches = []
    for batch in iterate_training(streamed, 1, 12, num_threads=2):
        batches.append(batch)
        kept.append(size_of(tmp_path / "run" / "cache"))
    assert_equal_batches(batches, iterate_training(local_set(tmp_path, source), 1, 12))
    assert 0 < max(kept) <= limit
    assert max(server.asked.values()) > 1, "what went out of the cache was fetched again"


def test_a_run_that_goes_on_elsewhere_sees_the_same_batches(tmp_path, source, stage_streamed):
    limit = size_of(source) // 3
    whole = list(iterate_training(training_set(stage_streamed(limit)), 1, 9))
    assert_equal_batches(whole[5:], iterate_training(training_set(stage_streamed(limit, "another")), 6, 9))


def test_what_fits_the_cache_is_fetched_once(source, server, stage_streamed):
    folder = stage_streamed(10 * size_of(source))
    for _ in range(2):
        assert check_images(folder, read_staged(folder).samples) == []
    assert set(server.asked.values()) == {1}


def test_a_server_that_fails_for_a_moment_or_knows_no_ranges_will_do(source, server, stage_streamed):
    folder = stage_streamed(10 * size_of(source))
    sample = read_staged(folder).samples[0]
    server.failures, server.knows_ranges = [503, 500], False
    assert read_sample(folder, sample, DEFAULT_LIMITS) == (source / sample.path).read_bytes()
    part = replace(sample, place=replace(sample.place, offset=10, num_bytes=20))
    assert read_sample(folder, part, DEFAULT_LIMITS) == (source / sample.path).read_bytes()[10:30]


def test_what_is_gone_from_its_place_is_told_without_its_signature(source, server, stage_streamed):
    folder = stage_streamed(10 * size_of(source))
    server.failures = [404]
    with pytest.raises(DatasetUnreachable, match=r"0\.png cannot be fetched") as caught:
        read_sample(folder, read_staged(folder).samples[0], DEFAULT_LIMITS)
    assert "signature" not in caught.value.message
    assert sum(server.asked.values()) == 1
    server.failures = [503] * 9
    with pytest.raises(DatasetUnreachable):
        read_sample(folder, read_staged(folder).samples[0], DEFAULT_LIMITS)


def test_an_image_over_the_limit_is_refused_before_it_is_fetched(source, server, stage_streamed):
    folder = stage_streamed(10 * size_of(source))
    bad = check_images(folder, read_staged(folder).samples[:1], ImageLimits(max_bytes=20))
    assert "at most 20 are allowed" in bad[0].reason
    assert not server.asked


@pytest.fixture
def table(tmp_path, source):
    """The pictures in a Parquet file of small row groups; (its folder, the pictures in order)."""
    paths = [path for path in list_folder(source) if path.endswith(".png")]
    rows = [
        {
            "image": {"bytes": (source / path).read_bytes(), "path": path},
            "label": path.split("/")[1],
            "domain": path[:5],
        }
        for path in paths
    ]
    (tmp_path / "tables").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "tables" / "pets.parquet", row_group_size=5)
    return tmp_path / "tables", [row["image"]["bytes"] for row in rows]


def test_rows_of_a_parquet_file_are_unpacked_through_the_cache(tmp_path, table):
    folder, contents = table
    layout = read_dataset(LocalFiles(folder, list_folder(folder)))
    samples = [
        replace(sample, place=replace(sample.place, location=str(folder / sample.place.location)))
        for sample in layout.samples
    ]
    dataset = tmp_path / "run" / "inputs" / "dataset"
    limit = sum(map(len, contents)) // 2
    save_listing(listing_file(dataset), Listing(replace(layout, samples=tuple(samples)), limit))
    staged = read_staged(dataset).samples
    for number in [*range(len(staged)), 0, 7, 3]:
        assert read_sample(dataset, staged[number], DEFAULT_LIMITS) == contents[number]
        assert size_of(tmp_path / "run" / "cache") <= limit


def test_a_run_directory_by_hand_may_hold_a_parquet_file(tmp_path, table):
    folder, contents = table
    (tmp_path / "hand" / "inputs").mkdir(parents=True)
    folder.rename(tmp_path / "hand" / "inputs" / "dataset")
    dataset = tmp_path / "hand" / "inputs" / "dataset"
    assert [read_sample(dataset, each, DEFAULT_LIMITS) for each in read_staged(dataset).samples] == contents


def test_bytes_in_a_table_that_are_no_image_are_named_by_file_and_row(tmp_path):
    dataset = tmp_path / "inputs" / "dataset"
    dataset.mkdir(parents=True)
    rows = [{"image": b"no picture", "label": "cat"}, {"image": None, "label": "dog"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), dataset / "pets.parquet")
    bad = check_images(dataset, read_staged(dataset).samples)
    assert [image.path for image in bad] == ["pets.parquet/0000000", "pets.parquet/0000001"]
    assert "empty" in bad[1].reason


def test_a_table_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    dataset = tmp_path / "inputs" / "dataset"
    dataset.mkdir(parents=True)
    rows = [{"image": bytes(1000), "label": name} for name in ("cat", "dog") * 500]
    parquet.write_table(pyarrow.Table.from_pylist(rows), dataset / "pets.parquet")
    assert (dataset / "pets.parquet").stat().st_size < 10_000
    monkeypatch.setattr("alignclip_core.dataset.image_table.MAX_GROUP_BYTES", 100_000)
    with pytest.raises(ImageRejected, match="unpacks to over 100,000 bytes"):
        read_sample(dataset, read_staged(dataset).samples[0], DEFAULT_LIMITS)
    monkeypatch.setattr("alignclip_core.dataset.image_table.MAX_ROWS", 100)
    with pytest.raises(Exception, match="it has 1,000 rows; at most 100"):
        read_staged(dataset)


def test_a_streamed_run_that_goes_on_from_a_checkpoint_ends_with_the_weights_of_a_local_one(
    tmp_path, make_run, tiny_base_model
):
    models_dir = tiny_base_model.folder.parent
    fields = {"num_images": 4, "num_steps": 8, "checkpoint_every_steps": 4, "evaluate_every_steps": 4}
    local, streamed = make_run("local", **fields), make_run("streamed", **fields)
    source = tmp_path / "source"
    streamed.dataset.rename(source)
    server = Server(source)
    try:
        layout = read_layout(list_folder(source))
        sizes = {sample.path: (source / sample.path).stat().st_size for sample in layout.samples}
        samples = tuple(
            replace(each, place=Place(f"{server.url}/{each.path}", 0, sizes[each.path])) for each in layout.samples
        )
        limit = sum(sizes.values()) // 3
        save_listing(listing_file(streamed.dataset), Listing(replace(layout, samples=samples), limit))
        for run_dir in (local, streamed):
            train(run_dir, models_dir=models_dir, stop=threading.Event())
        weights = streamed.read_manifest()["weights_sha256"]
        shutil.rmtree(streamed.model)
        shutil.rmtree(streamed.path / "cache" / "dataset")
        shutil.rmtree(streamed.checkpoint_folder(8))
        streaming._cache_of.cache_clear()  # another process goes on
        train(streamed, models_dir=models_dir, stop=threading.Event())
    finally:
        server.stop()
    assert streamed.read_manifest()["weights_sha256"] == weights == local.read_manifest()["weights_sha256"]
    assert 0 < size_of(streamed.path / "cache") <= limit

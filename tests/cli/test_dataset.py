"""`alignclip dataset check`: any reference, mostly with no service in between, and how far it is."""

import json
import shutil
import subprocess
import sys
import tarfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.dataset_source import folder_of
from cli.main import app
from tests.servers import HttpServer

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))


def test_a_manifest_in_a_bucket_is_checked_beside_a_validation_set(serve_environment, pictures, s3, tmp_path):
    names = [path.relative_to(pictures).as_posix() for path in sorted(pictures.glob("*/*/*.png"))]
    rows = [f"s3://shapes/sets/{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    s3.mkdir("shapes")
    s3.put(str(pictures), "shapes/sets", recursive=True)
    s3.pipe_file("shapes/sets/ink/bar/broken.png", b"no image")
    rows.append("ink/bar/broken.png,bar,ink")
    s3.pipe_file("shapes/sets/mine.csv", "\n".join(["image,label,domain", *rows]).encode())
    shutil.copytree(pictures / "ink/bar", tmp_path / "held-out/bars")
    held_out = tmp_path / "held-out/some.csv"
    held_out.write_text("image,label,domain\nbars/0.png,bar,ink\nbars/4.png,bar,ink\n")
    words = ["s3://shapes/sets/mine.csv", "--validation", str(held_out), "--test-domain", "light"]
    done = subprocess.run(
        [ALIGNCLIP, "dataset", "check", *words],
        env=serve_environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    assert "49 images of 4 classes in 2 domains: 24 test domains, 25 train, 2 validation." in done.stdout
    assert "Domains: 25 ink, 24 light." in done.stdout
    assert "Pixels: 64 to 64 (median 64) wide, 64 to 64 (median 64) high; 0 kB on average." in done.stdout
    assert "fatal 1 image cannot be used: ink/bar/broken.png" in done.stdout
    assert "2 images with the same bytes in several parts of the split: 2 in train and validation." in done.stdout
    assert "    validation_file/bars/4.png" in done.stdout.splitlines()
    bars = [line for line in done.stderr.splitlines() if "━" in line]
    assert [line.split()[0] for line in bars] == ["fetching", "decoding", "decoding", "comparing"]
    assert all(count in line for count, line in zip(("50/50", "49/49", "2/2", "48/48"), bars, strict=True))


def test_a_packed_dataset_is_unpacked_and_a_folder_stays_where_it_is(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path / "home"))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", pictures)
    told = []
    with folder_of(archive, lambda *counts: told.append(counts)) as found:
        unpacked = found.read()
        assert found.folder.is_dir()
    assert not found.folder.exists()
    assert len(told) >= 48
    assert told == [(number, len(told)) for number in range(1, len(told) + 1)]
    with folder_of(str(pictures), told.append) as found:
        assert (found.folder, found.read()) == (pictures, unpacked)


def test_a_folder_of_shards_is_opened_and_a_tar_beside_images_is_not(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path / "home"))
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    shutil.make_archive(str(folder / "as-it-came"), "tar", pictures)
    with folder_of(str(folder), lambda *counts: None) as found:
        assert (found.folder, found.read().ignored) == (folder, ("as-it-came.tar",))
    (tmp_path / "shards").mkdir()
    for name in ("bar", "circle"):
        shard = tmp_path / f"shards/{name}.tar"
        with tarfile.open(shard, "w") as tar:
            (tmp_path / "label").write_text(name)
            tar.add(pictures / f"ink/{name}/0.png", "0.png")
            tar.add(tmp_path / "label", "0.cls")
    with folder_of(str(tmp_path / "shards"), lambda *counts: None) as found:
        assert found.read().class_names == ("bar", "circle")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere", "There is nothing at 'nowhere'"),
        ("s3://shapes/../x", "no plain URL"),
        ("torchvision://DTD", "ALIGNCLIP_TORCHVISION_ROOT"),
    ],
)
def test_what_leads_nowhere_is_one_line(tmp_path, monkeypatch, reference, words):
    monkeypatch.setenv("ALIGNCLIP_HOME", str(tmp_path))
    refused = CliRunner().invoke(app, ["dataset", "check", reference])
    assert refused.exit_code == 1
    assert words in " ".join(refused.output.split())


def test_a_file_of_the_service_is_checked_by_the_service(tmp_path, monkeypatch):
    asked = []
    counted = {
        "classes": [],
        "domains": [],
        "findings": [],
        "sizes": {},
        "splits": [{"name": "train", "num_images": 3}],
    }

    class Service(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, self.headers["Authorization"], json.loads(body)))
            answer = json.dumps(counted | {"num_images": 3}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    service = HttpServer(Service)
    try:
        for name, value in {"HOME": tmp_path, "URL": service.url, "API_KEY": "acl-me"}.items():
            monkeypatch.setenv(f"ALIGNCLIP_{name}", str(value))
        words = ["file-abc", "--validation", "file-def", "--unseen-class", "owl", "--shots", "4"]
        done = CliRunner().invoke(app, ["dataset", "check", *words])
        whole = CliRunner().invoke(app, ["dataset", "check", "file-abc", "--json"])
    finally:
        service.stop()
    assert done.exit_code == 0, done.output
    body = {"dataset": "file-abc", "model": "starter", "validation_file": "file-def", "num_shots": 4, "seed": 0}
    assert asked[0] == ("/v1/datasets", "Bearer acl-me", body | {"unseen_classes": ["owl"], "test_domains": []})
    assert "3 images of 0 classes: 3 train." in done.output
    assert json.loads(whole.stdout) == counted | {"num_images": 3}

"""`alignclip dataset check`: any reference, mostly with no service in between, and how far it is."""

import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.servers import HttpServer

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))


@pytest.fixture
def check(serve_environment, tmp_path):
    """A function that runs `alignclip dataset check ...` where no service is."""

    def run(*arguments):
        return subprocess.run(
            [ALIGNCLIP, "dataset", "check", *map(str, arguments)],
            env=serve_environment(tmp_path / "home"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


def test_a_packed_dataset_is_checked_and_the_terminal_tells_how_far_it_is(check, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data/ink/bar/broken.png").write_bytes(b"no image")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "data")
    done = check(archive, "--test-domain", "light", "--test-fraction", "0.2")
    assert done.returncode == 1, done.stderr
    assert "49 images of 4 classes in 2 domains: 24 test domains, 4 test images" in done.stdout
    assert "fatal 1 image cannot be used: ink/bar/broken.png" in done.stdout
    lines = {line.split()[0]: line for line in done.stderr.splitlines() if line.strip()}
    assert {"fetching", "decoding", "comparing"} <= lines.keys()
    assert "49/49" in lines["decoding"]
    assert "48/48" in lines["comparing"]


def test_a_manifest_in_a_bucket_is_checked_beside_a_validation_set(check, pictures, s3, tmp_path):
    names = [path.relative_to(pictures).as_posix() for path in sorted(pictures.glob("ink/*/*.png"))]
    rows = [f"s3://shapes/sets/{name},{name.split('/')[1]}" for name in names]
    s3.mkdir("shapes")
    s3.put(str(pictures / "ink"), "shapes/sets/ink", recursive=True)
    s3.pipe_file("shapes/sets/mine.csv", "\n".join(["image,label", *rows]).encode())
    shutil.copytree(pictures / "ink/bar", tmp_path / "held-out/bars")
    (tmp_path / "held-out/some.csv").write_text("image,label\nbars/0.png,bar\nbars/4.png,bar\n")
    done = check("s3://shapes/sets/mine.csv", "--validation", tmp_path / "held-out/some.csv", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {part["name"]: part["num_images"] for part in report["splits"]} == {"train": 24, "validation": 2}
    (leak,) = [finding for finding in report["findings"] if finding["code"] == "duplicate_across_splits"]
    assert sorted(leak["paths"]) == [f"{top}/{n}.png" for top in ("ink/bar", "validation_file/bars") for n in (0, 4)]


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
    counted = {"classes": [], "domains": [], "findings": [], "splits": [{"name": "train", "num_images": 3}]}

    class Service(BaseHTTPRequestHandler):
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
    finally:
        service.stop()
    assert done.exit_code == 0, done.output
    body = {"dataset": "file-abc", "model": "starter", "validation_file": "file-def", "num_shots": 4, "seed": 0}
    assert asked == [("/v1/datasets", "Bearer acl-me", body | {"unseen_classes": ["owl"], "test_domains": []})]
    assert "3 images of 0 classes: 3 train." in done.output

"""What the README tells a person to type, typed: its first job with curl and with both clients."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.demo.pictures import TRAINED_STYLE, all_pictures, draw_pictures

README = (Path(__file__).parents[2] / "README.md").read_text()
URL = "http://127.0.0.1:8000"
CLASSES = ("bird", "clock", "fruit")
PICTURES_A_CLASS = 6

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's folder: pictures.zip and a picture.png."""
    folder = tmp_path_factory.mktemp("person")
    chosen = []
    for name in CLASSES:
        of_class = [each for each in all_pictures() if (each.domain, each.class_name) == (TRAINED_STYLE, name)]
        chosen += of_class[:PICTURES_A_CLASS]
    draw_pictures(folder / "pictures", chosen)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for picture in chosen:
            path = folder / "pictures" / picture.path
            archive.write(path, f"{picture.class_name}/{path.name}")
    (folder / "picture.png").write_bytes((folder / "pictures" / chosen[0].path).read_bytes())
    return folder


def run(command: list[str], code: str, service, folder: Path) -> str:
    environment = os.environ | {"ALIGNCLIP_API_KEY": service.api_key, "NO_PROXY": "127.0.0.1"}
    assert URL in code
    ended = subprocess.run(
        [*command, code.replace(URL, service.url)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_first_job_with_curl(service, folder):
    (block,) = blocks("bash")
    answers = run(["bash", "-euo", "pipefail", "-c"], block, service, folder)
    assert '"object":"fine_tuning.job"' in answers
    assert '"label":"a cat"' in answers


def test_first_job_with_both_clients(service, folder):
    answers = run([sys.executable, "-c"], "\n".join(blocks("python")), service, folder)
    assert "succeeded ft:starter:" in answers
    assert "a teapot" in answers

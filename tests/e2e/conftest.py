"""One real `alignclip serve` in a process of its own, the official clients, and one job that runs to its end."""

import io
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI

from tests.servers import served
from tools.demo.classes import CLASS_NAMES, UNSEEN_CLASSES
from tools.demo.pictures import NEW_STYLE, TRAINED_STYLE, Picture, all_pictures, draw_pictures

START_SECONDS = 180.0
JOB_SECONDS = 900.0
NEW_STYLE_PICTURES = 6  # of each trained class; all of the unseen ones stand in the trained style
HYPERPARAMETERS = {
    "num_steps": 50,
    "batch_size": 24,
    "evaluate_every_steps": 25,
    "checkpoint_every_steps": 25,
}


@dataclass(frozen=True)
class Service:
    """A running serve."""

    process: subprocess.Popen
    home: Path
    url: str
    api_key: str

    def hugging_face(self, model: str) -> InferenceClient:
        return InferenceClient(model=f"{self.url}/v1/models/{model}/classify", token=self.api_key)

    def living_processes(self) -> list[psutil.Process]:
        """Those that were started for its home, whoever their parent is now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            is_ours = process.environ().get("ALIGNCLIP_HOME") == str(self.home)
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    with served(home) as running:
        yield Service(running.process, home, running.url, running.api_key)


@pytest.fixture(scope="module")
def openai(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key=service.api_key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """All of the trained style, some of the new one: enough to measure with, few enough to be quick."""
    chosen = [picture for picture in all_pictures() if picture.domain == TRAINED_STYLE]
    for name in sorted({picture.class_name for picture in chosen} - set(UNSEEN_CLASSES)):
        new_style = [each for each in all_pictures() if (each.domain, each.class_name) == (NEW_STYLE, name)]
        chosen += new_style[:NEW_STYLE_PICTURES]
    return chosen


@pytest.fixture(scope="module")
def picture_bytes(tmp_path_factory: pytest.TempPathFactory, pictures: list[Picture]) -> dict[Picture, bytes]:
    folder = tmp_path_factory.mktemp("data") / "pictures"
    draw_pictures(folder, pictures)
    return {picture: (folder / picture.path).read_bytes() for picture in pictures}


@pytest.fixture(scope="module")
def training_file(openai: OpenAI, picture_bytes: dict[Picture, bytes]) -> str:
    """The id of the uploaded pictures."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for picture, content in picture_bytes.items():
            opened.writestr(f"emoji/{picture.path}", content)
    return openai.files.create(file=("emoji.zip", archive.getvalue()), purpose="fine-tune").id


@pytest.fixture(scope="module")
def job(openai: OpenAI, training_file: str):
    """A job that succeeded."""
    job = openai.fine_tuning.jobs.create(
        model="starter",
        training_file=training_file,
        suffix="emoji",
        seed=0,
        metadata={"purpose": "test"},
        method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},
        extra_body={
            "class_names": CLASS_NAMES,
            "test_domains": [NEW_STYLE],
            "unseen_classes": list(UNSEEN_CLASSES),
            "validation_fraction": 0.25,
        },
    )
    deadline = time.monotonic() + JOB_SECONDS
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, job
        time.sleep(1)
        job = openai.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    return job

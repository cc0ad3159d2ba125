"""A service in pieces that a test starts and kills: real worker and reaper, a tiny random ViT, made pictures."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
import open_clip
import psutil
import pytest
import torch
from celery import Celery
from PIL import Image
from safetensors.torch import save_file
from sqlalchemy import Engine, select, update

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, read_card
from alignclip_core.config import make_config
from alignclip_core.faults import FAULTS_VARIABLE, FaultPoint
from alignclip_core.run_dir import ClassSimilarity, RunDir
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine, database_now, reading, transaction
from alignclip_store.files import create_file
from alignclip_store.ids import new_id
from alignclip_store.job_kinds import JobKind
from alignclip_store.jobs import create_job, get_job, list_metrics
from alignclip_store.queue import create_queue, wake
from alignclip_store.runs import WorkerIdentity, claim_next
from alignclip_store.settings import Settings
from alignclip_store.similarities import create_similarity
from alignclip_store.tables import Event, Job, Run
from worker.current_run import CurrentRun, Workplace
from worker.lease import Lease
from worker.shutdown import ShutdownFlag

ROOT = Path(__file__).parents[2]
OWNER = "owner"
CLASSES = ("blue", "green", "red")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 6},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
WAIT_SECONDS = 300.0  # two cores may be busy with other things


@dataclass
class Service:
    """One home with its database, and what the test runs on it."""

    settings: Settings
    engine: Engine
    artifacts: ArtifactStore
    queue: Celery
    environment: dict[str, str]
    processes: list[psutil.Popen] = field(default_factory=list)

    def submit(
        self,
        archive: bytes | str,
        *,
        validation: bytes | None = None,
        test_datasets: Mapping[str, bytes | str] = MappingProxyType({}),
        wakes: bool = True,
        **hyperparameters: object,
    ) -> str:
        """What a POST does: files, similarity matrix and job in the store, then a wake-up. A str is a reference."""
        card = read_card(self.settings.models_location / "tiny", "tiny")
        given = {"num_steps": 6, "global_batch_size": 6, "learning_rate": 1e-3} | hyperparameters
        config = make_config(card, class_names={name: name for name in CLASSES}, given=given)
        similarity = make_similarity(config.templates, card.text_model)
        with transaction(self.engine) as session:
            job = create_job(
                session,
                OWNER,
                config=config.to_json(),
                request={},
                training_file=archive if isinstance(archive, str) else self._put_archive(session, archive),
                validation_file=self._put_archive(session, validation) if validation else None,
                test_datasets=[
                    {
                        "name": name,
                        "dataset": content if isinstance(content, str) else self._put_archive(session, content),
                        "class_names": None,
                    }
                    for name, content in test_datasets.items()
                ],
                suffix="colours",
                labels={},
                similarity_id=self._put_similarity(session, similarity),
                num_steps=config.num_steps,
                base_model=card.id,
            )
        if wakes:
            wake(self.queue, job.id)
        return job.id

    def ask(self, archive: bytes, model_id: str = "tiny") -> str:
        """What a POST of a classification does: the model is asked of every image in the archive."""
        card = read_card(self.settings.models_location / "tiny", "tiny")
        similarity = make_similarity(card.templates, card.text_model)
        with transaction(self.engine) as session:
            job = create_job(
                session,
                OWNER,
                kind=JobKind.CLASSIFICATION,
                config={"top_k": 2},
                request={},
                training_file=self._put_archive(session, archive),
                validation_file=None,
                suffix=None,
                labels={},
                similarity_id=self._put_similarity(session, similarity),
                num_steps=len(zipfile.ZipFile(io.BytesIO(archive)).namelist()),
                base_model=card.id,
                model_id=model_id,
            )
        wake(self.queue, job.id)
        return job.id

    def job(self, job_id: str) -> Job:
        kind = JobKind.CLASSIFICATION if job_id.startswith("classify-") else JobKind.FINE_TUNING
        with reading(self.engine) as session:
            return get_job(session, OWNER, job_id, kind=kind)

    def wait(self, job_id: str, until: Callable[[Job], bool]) -> Job:
        """The job once it is as wished; the logs of all processes when it never is."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not until(job := self.job(job_id)):
            if time.monotonic() > deadline:
                pytest.fail(f"{job_id} is {job.status}, phase {job.phase}, step {job.step}:\n{self.logs()}")
            time.sleep(0.1)
        return job

    def wait_for_end(self, job_id: str) -> Job:
        return self.wait(job_id, lambda job: job.finished_at is not None)

    def wait_for_step(self, job_id: str, step: int) -> Job:
        return self.wait(job_id, lambda job: job.step >= step or job.finished_at is not None)

    def wait_for_no_run_folder(self) -> None:
        """A worker removes the folder of a run shortly after it has ended the job."""
        deadline = time.monotonic() + WAIT_SECONDS
        while left := list(self.settings.runs_location.glob("*")):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def let_lease_lapse(self, job_id: str) -> None:
        """What time does to the lease of a worker that is dead."""
        with transaction(self.engine) as session:
            session.execute(update(Job).where(Job.id == job_id).values(lease_until=database_now(session)))

    def start_worker(self, name: str = "worker", **variables: str) -> psutil.Popen:
        command = ["celery", "-A", "worker.main", "worker", "--concurrency", "1", "--hostname", f"{name}@%h"]
        arguments = ["-m", *command, "--without-gossip", "--without-mingle", "--without-heartbeat"]
        return self._start(name, arguments, **variables)

    def start_reaper(self) -> psutil.Popen:
        return self._start("reaper", ["-m", "worker.reaper"])

    def arm(self, point: FaultPoint, content: str = "") -> None:
        """Whoever comes to the point next is held there, until `release`; alignclip_core/faults.py says more."""
        assert point in get_args(FaultPoint)
        (self._faults / point).write_text(content)

    def wait_held(self, point: FaultPoint, seconds: float = WAIT_SECONDS) -> psutil.Process:
        """The living process that is held at the armed point."""
        deadline = time.monotonic() + seconds
        while not (held := list(self._faults.glob(f"{point}.*"))):
            if time.monotonic() > deadline:
                pytest.fail(f"Nothing came to {point}:\n{self.logs()}")
            time.sleep(0.05)
        return psutil.Process(int(held[0].suffix[1:]))

    def release(self, point: FaultPoint) -> None:
        """Nobody is held at the point any more."""
        for path in [self._faults / point, *self._faults.glob(f"{point}.*")]:
            path.unlink(missing_ok=True)

    @property
    def _faults(self) -> Path:
        return Path(self.environment[FAULTS_VARIABLE])

    def events(self, job_id: str) -> list[Event]:
        """What happened to the job, oldest first."""
        with reading(self.engine) as session:
            return list(session.scalars(select(Event).where(Event.job_id == job_id).order_by(Event.id)))

    def runs(self, job_id: str) -> list[Run]:
        """The attempts at the job, oldest first."""
        with reading(self.engine) as session:
            return list(session.scalars(select(Run).where(Run.job_id == job_id).order_by(Run.fence)))

    def train_steps(self, job_id: str) -> list[int]:
        """The steps whose training metrics are stored, in order."""
        with reading(self.engine) as session:
            return [metric.step for metric in list_metrics(session, OWNER, job_id, kind="train", limit=100_000)[0]]

    def trainer(self, job_id: str) -> psutil.Process:
        """The job's living trainer process."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (found := [process for process in psutil.process_iter() if is_trainer(process, job_id)]):
            if time.monotonic() > deadline:
                pytest.fail(f"{job_id} has no trainer:\n{self.logs()}")
            time.sleep(0.05)
        assert len(found) == 1
        return found[0]

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.settings.home_dir.glob("*.log")))

    def stop(self) -> None:
        """Kill every process that is left, and close the database."""
        self.engine.dispose()
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()

    def _start(self, name: str, arguments: list[str], **variables: str) -> psutil.Popen:
        with (self.settings.home_dir / f"{name}.log").open("ab") as log:
            process = psutil.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def _put_archive(self, session, archive: bytes) -> str:
        file_id = new_id("file")
        local = self.settings.home_dir / f"{file_id}.zip"
        local.write_bytes(archive)
        uri = self.artifacts.put_file(local, f"files/{file_id}")
        values = {"filename": "a.zip", "purpose": "fine-tune", "num_bytes": len(archive), "sha256": "0" * 64}
        return create_file(session, OWNER, **values, artifact_uri=uri, file_id=file_id).id

    def _put_similarity(self, session, similarity: ClassSimilarity) -> str:
        local = self.settings.home_dir / "similarity.safetensors"
        similarity.save(local)
        uri = self.artifacts.put_file(local, f"similarities/{similarity.sha256}")
        values = {"cache_key": similarity.sha256, "sha256": similarity.sha256, "base_model": "tiny", "num_classes": 3}
        return create_similarity(session, OWNER, **values, artifact_uri=uri).id


def is_trainer(process: psutil.Process, job_id: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return False
    is_told = {"alignclip_core.train", "alignclip_core.classify_dataset"} & set(command) and job_id in " ".join(command)
    try:
        return is_told and os.getsid(process.pid) == process.pid  # its loader processes have the same command line
    except ProcessLookupError:
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two looks
        return False


def make_similarity(templates: tuple[str, ...], text_model: str) -> ClassSimilarity:
    features = np.random.default_rng(0).standard_normal((len(CLASSES), TINY["embed_dim"])).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return ClassSimilarity(
        class_names=CLASSES,
        templates=templates,
        text_model=text_model,
        class_embeddings=features,
        cosine=features @ features.T,
    )


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one base model: a random ViT of six blocks for pictures of 16 pixels."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny").mkdir()
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**TINY, init_logit_scale=torch.tensor(20.0).log().item())
    (folder / "tiny" / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "tiny" / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """Path in the archive -> content: four noisy pictures of each colour."""
    noise = np.random.default_rng(0)
    found = {}
    for channel, name in zip((2, 1, 0), CLASSES, strict=True):
        for number in range(4):
            pixels = noise.integers(0, 128, (16, 16, 3), dtype=np.uint8)
            pixels[..., channel] += 127
            found[f"{name}/{number}.png"] = png(pixels)
    return found


@pytest.fixture(scope="session")
def pack() -> Callable[[dict[str, bytes]], bytes]:
    """Makes a zip of path -> content."""
    return pack_files


@pytest.fixture(scope="session")
def archive(pictures: dict[str, bytes]) -> bytes:
    """The pictures as a zip."""
    return pack_files(pictures)


@pytest.fixture(scope="session")
def archive_with_bad_images(pictures: dict[str, bytes]) -> bytes:
    """The same and three files more that are no pictures."""
    return pack_files(pictures | {f"red/broken-{number}.png": b"no picture" for number in range(3)})


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pack_files(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def open_service(migrated_sqlite: Path, models_dir: Path, valkey_url: str) -> Callable[..., Service]:
    """Makes a service in a home, which wakes and reaps at once; its opener stops it.

    No lease lapses by itself, however long a busy machine holds a process up: `let_lease_lapse` has it do so.
    """

    def make(home: Path, **fields: object) -> Service:
        times = {"reap_seconds": 0.2, "wake_again_seconds": 1.0, "heartbeat_seconds": 1.0}
        times |= {"lease_seconds": 2 * WAIT_SECONDS, "stop_seconds": 2 * WAIT_SECONDS}  # longer than anybody waits
        given = {"home": home, "models_dir": models_dir, "broker_url": valkey_url, "threads": 1, **times, **fields}
        settings = Settings(**given)
        (home / "faults").mkdir(parents=True, exist_ok=True)
        if settings.database_url is None:
            (home / "alignclip.db").write_bytes(migrated_sqlite.read_bytes())
        return Service(
            settings=settings,
            engine=create_engine(settings),
            artifacts=ArtifactStore(settings.artifacts_location),
            queue=create_queue(settings),
            environment=environment_of(settings),
        )

    return make


@pytest.fixture
def make_service(open_service: Callable[..., Service], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services of one test; their processes end with it."""
    services: list[Service] = []

    def make(**fields: object) -> Service:
        services.append(open_service(tmp_path / f"home-{len(services)}", **fields))
        return services[-1]

    yield make
    for service in services:
        service.stop()


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """A service on SQLite and Valkey, with nothing running yet."""
    return make_service()


@pytest.fixture(scope="module")
def running_service(
    open_service: Callable[..., Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with a worker and a reaper that the tests of a module share."""
    service = open_service(tmp_path_factory.mktemp("running"))
    service.start_worker()
    service.start_reaper()
    yield service
    service.stop()


@pytest.fixture
def claim_run(service: Service) -> Iterator[Callable[..., CurrentRun]]:
    """Claims the service's oldest queued job as a worker of the test's own process does."""
    with ExitStack() as open_leases:

        def claim(service: Service = service) -> CurrentRun:
            place = workplace_of(service)
            with transaction(service.engine) as session:
                claimed = claim_next(session, place.identity, service.settings.lease_seconds)
            assert claimed is not None
            lease = open_leases.enter_context(
                Lease(
                    service.engine,
                    claimed,
                    lease_seconds=service.settings.lease_seconds,
                    heartbeat_seconds=service.settings.heartbeat_seconds,
                )
            )
            run_dir = RunDir(service.settings.runs_location / claimed.job_id / f"run-{claimed.fence}")
            return CurrentRun(workplace=place, claim=claimed, lease=lease, run_dir=run_dir)

        yield claim


@pytest.fixture
def workplace(service: Service) -> Workplace:
    """The service's workplace in the test's own process."""
    return workplace_of(service)


def workplace_of(service: Service) -> Workplace:
    return Workplace(
        settings=service.settings,
        engine=service.engine,
        artifacts=service.artifacts,
        identity=WorkerIdentity(name="test/1", host="here", device="cpu"),
        shutting_down=ShutdownFlag(),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings as the processes read them, with a secret that no trainer may see."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    variables = {
        f"ALIGNCLIP_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
    own = {
        "ALIGNCLIP_BOOTSTRAP_API_KEY": "acl-secret",
        "OMP_NUM_THREADS": "1",
        FAULTS_VARIABLE: str(settings.home_dir / "faults"),
    }
    return dict(os.environ) | variables | own


@pytest.fixture
def is_gone() -> Callable[[psutil.Process], bool]:
    """Whether a process ends soon; one that is dead and unreaped counts as gone."""

    def check(process: psutil.Process) -> bool:
        deadline = time.monotonic() + WAIT_SECONDS
        while is_alive(process):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    return check

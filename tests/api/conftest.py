"""The API behind a real port: uvicorn in a thread, SQLite with the migrations, tiny random base models, made pictures.

No broker, no worker: what those would write is put in place with the store's own functions.
"""

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import open_clip
import pytest
import structlog
import torch
import uvicorn
from huggingface_hub import InferenceClient
from openai import OpenAI
from PIL import Image
from safetensors.torch import save_file
from sqlalchemy import Engine

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, read_card
from alignclip_core.checkpoint import make_manifest, save_model
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import build_image_encoder
from alignclip_core.run_dir import ClassSimilarity
from alignclip_store import runs
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine, reading, transaction
from alignclip_store.jobs import get_job
from alignclip_store.runs import Claim, NewModel, WorkerIdentity
from alignclip_store.settings import Settings
from alignclip_store.similarities import get_similarity
from api.main import create_app

KEY = "acl-test-key"
OWNER = "default"
LEASE_SECONDS = 600.0
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 6},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
POOLED = TINY | {"vision_cfg": TINY["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2}}


@dataclass
class Service:
    """A running API, and a worker's hands on the same store."""

    url: str
    settings: Settings
    engine: Engine
    artifacts: ArtifactStore
    openai: OpenAI
    http: httpx2.Client
    server: uvicorn.Server
    thread: threading.Thread
    app: object = field(repr=False)

    def hugging_face(self, model: str, **options: object) -> InferenceClient:
        return InferenceClient(model=f"{self.url}/v1/models/{model}/classify", **{"token": KEY} | options)

    def upload(self, content: bytes, filename: str = "pets.zip") -> str:
        return self.openai.files.create(file=(filename, content), purpose="fine-tune").id

    def claim(self, job_id: str) -> Claim:
        """What a worker does first; other queued jobs are claimed on the way."""
        while True:
            with transaction(self.engine) as session:
                claim = runs.claim_next(
                    session, WorkerIdentity(name="worker@host", host="host", device="cpu"), LEASE_SECONDS
                )
            assert claim is not None, f"{job_id} is not queued"
            if claim.job_id == job_id:
                return claim

    def write(self, change: Callable, *arguments: object, **named: object) -> object:
        with transaction(self.engine) as session:
            return change(session, *arguments, **named)

    def finish(
        self,
        job_id: str,
        result: Mapping[str, object] | None = None,
        calibration: Mapping[str, object] | None = None,
    ) -> str:
        """What a worker does last: the tower, a little changed, becomes the job's model; its id."""
        claim = self.claim(job_id)
        self.write(runs.start_training, claim)
        with reading(self.engine) as session:
            job = get_job(session, OWNER, job_id)
            row = get_similarity(session, OWNER, job.similarity_id)
        config = FinetuneConfig.from_json(job.config)
        card = read_card(self.settings.models_location / config.base_model, config.base_model)
        encoder = build_image_encoder(card)
        torch.manual_seed(1)
        weights = {name: value + 0.05 * torch.randn_like(value) for name, value in encoder.state_dict().items()}
        manifest = make_manifest(
            config,
            card,
            ClassSimilarity.load(self.artifacts.local_path(row.artifact_uri)),
            preprocessing=encoder.preprocess,
            logit_scale=encoder.logit_scale,
            step=config.num_steps,
            result=result or {},
        )
        if calibration is not None:
            manifest["calibration"] = dict(calibration)
        folder = self.settings.home_dir / "made" / job_id
        save_model(folder, weights, manifest)
        manifest = json.loads((folder / "manifest.json").read_text())
        model = NewModel(artifact_uri=self.artifacts.put_folder(folder, f"models/{job_id}"), manifest=manifest)
        self.write(runs.finish, claim, "succeeded", result=result or {}, model=model)
        return self.openai.fine_tuning.jobs.retrieve(job_id).fine_tuned_model

    def stop(self) -> None:
        self.openai.close()
        self.http.close()
        self.server.should_exit = True
        self.thread.join(30)
        self.engine.dispose()


@pytest.fixture(scope="session", autouse=True)
def _plain_log() -> None:
    """Structlog's own default draws tracebacks with all local variables, which takes long."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),  # pytest shows it where a test fails
    )


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two base models with random weights: `tiny`, a ViT of six blocks, and `pooled`, which cannot be aligned."""
    folder = tmp_path_factory.mktemp("models")
    for name, config in (("tiny", TINY), ("pooled", POOLED)):
        (folder / name).mkdir()
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**config, init_logit_scale=torch.tensor(20.0).log().item())
        (folder / name / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        save_file(model.state_dict(), folder / name / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="session")
def start_service(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, models_dir: Path
) -> Iterator[Callable[..., Service]]:
    """Starts an API on a home of its own; it ends with the tests."""
    services: list[Service] = []

    def start(**fields: object) -> Service:
        home = tmp_path_factory.mktemp("home")
        given = {"home": home, "models_dir": models_dir, "bootstrap_api_key": KEY, "threads": 1}
        given |= {"serving_runtime": "torch"}  # others take a second to convert each model
        settings = Settings(**given | {"broker_url": f"redis+socket://{home}/nobody.sock"} | fields)
        if settings.database_url is None:
            (home / "alignclip.db").write_bytes(migrated_sqlite.read_bytes())
        service = _serve(settings)
        services.append(service)
        return service

    yield start
    for service in services:
        service.stop()


@pytest.fixture(scope="session")
def service(start_service: Callable[..., Service], dataset_root: Path) -> Service:
    """The API that most tests share; what they list they mark with metadata of their own."""
    return start_service(dataset_roots=[dataset_root])


@pytest.fixture
def openai(service: Service) -> OpenAI:
    """The official client, unmodified; it does not try again."""
    return service.openai


@pytest.fixture
def http(service: Service) -> httpx2.Client:
    """Plain HTTP with the key."""
    return service.http


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, bytes]) -> Path:
    """A folder that the operator opened for dataset references; it holds `pets/` and a link out of it."""
    root = tmp_path_factory.mktemp("datasets")
    for name, content in pictures.items():
        (root / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "pets" / name).write_bytes(content)
    secret = tmp_path_factory.mktemp("secret")
    (secret / "cat").mkdir()
    (secret / "cat" / "1.png").write_bytes(content)
    (root / "elsewhere").symlink_to(secret)
    return root


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    """class/image.png -> content: five small noisy pictures of each of three classes."""
    noise = np.random.default_rng(0)
    found = {}
    for channel, name in enumerate(("cat", "dog", "red_panda")):
        for number in range(5):
            pixels = noise.integers(0, 128, (24, 20, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            found[f"{name}/{number}.png"] = encode_png(pixels)
    return found


@pytest.fixture(scope="session")
def archive(pictures: dict[str, bytes]) -> bytes:
    """The pictures as a zip."""
    return pack(pictures)


@pytest.fixture(scope="session")
def domain_archive(pictures: dict[str, bytes]) -> bytes:
    """The pictures twice, under the domains `photo` and `sketch`."""
    return pack({f"{domain}/{name}": content for domain in ("photo", "sketch") for name, content in pictures.items()})


@pytest.fixture(scope="session")
def picture(pictures: dict[str, bytes]) -> bytes:
    """One picture."""
    return pictures["dog/0.png"]


@pytest.fixture(scope="session")
def make_archive() -> Callable[[Mapping[str, bytes]], bytes]:
    """Packs files into a zip; a name that ends in "/" is an empty folder."""
    return pack


@pytest.fixture
def file_id(service: Service, archive: bytes) -> str:
    """An uploaded dataset."""
    return service.upload(archive)


@pytest.fixture
def create_job(service: Service, file_id: str) -> Callable[..., object]:
    """Creates a short job on the tiny model through the official client; fields of the body may be given."""

    def create(**fields: object) -> object:
        given = {"model": "tiny", "training_file": file_id, "extra_body": {"num_steps": 8}}
        return service.openai.fine_tuning.jobs.create(**given | fields)

    return create


def pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _serve(settings: Settings) -> Service:
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the application did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    return Service(
        url=url,
        settings=settings,
        engine=create_engine(settings),
        artifacts=ArtifactStore(settings.artifacts_location),
        openai=OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, _strict_response_validation=True),
        http=httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=120),
        server=server,
        thread=thread,
        app=app,
    )

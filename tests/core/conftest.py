"""Base models and pictures small enough for tests: a random ViT in open_clip's layout, the starter, drawn shapes."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from alignclip_core.base_models import CONFIG_FILE, STARTER_FOLDER, WEIGHTS_FILE, BaseModel, read_card
from alignclip_core.checkpoint import make_manifest, save_model
from alignclip_core.config import PROMPT_LEARNERS, FinetuneConfig, make_config
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.faults import FAULTS_VARIABLE
from alignclip_core.images import DEFAULT_LIMITS
from alignclip_core.prompts import class_similarity_of
from alignclip_core.ranks import Ranks
from alignclip_core.run_dir import ClassSimilarity, RunDir
from alignclip_core.trainer import Trainer

TINY_MODEL_CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in bf16 depend on the number of threads: every machine, and every order of the tests, sees the same ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model_config() -> dict:
    """open_clip's model_cfg of `tiny_base_model`: 8 blocks, 3 heads, 16 patches, 32 numbers a feature."""
    return TINY_MODEL_CONFIG


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A local base model with random weights, for images of 32 pixels."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**TINY_MODEL_CONFIG, init_logit_scale=torch.tensor(20.0).log().item())
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY_MODEL_CONFIG, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    return read_card(folder, "tiny")


@pytest.fixture(scope="session")
def starter_model() -> BaseModel:
    """The model that the package carries."""
    return read_card(Path(STARTER_FOLDER), "starter")


@pytest.fixture(scope="session")
def tuned_folder(tmp_path_factory: pytest.TempPathFactory, tiny_base_model: BaseModel) -> Path:
    """A finished model's folder: the tiny model, its tower a little changed, with four classes of its own."""
    encoder = build_image_encoder(tiny_base_model)
    config = tiny_config(tiny_base_model, templates=("a drawing of a {}.", "a {}."))
    texts = class_similarity_of(build_text_encoder(tiny_base_model), SHAPES, config.templates)
    noise = torch.Generator().manual_seed(1)
    weights = {
        name: value + 0.05 * torch.randn(value.shape, generator=noise) for name, value in encoder.state_dict().items()
    }
    manifest = make_manifest(
        config,
        tiny_base_model,
        texts,
        preprocessing=encoder.preprocess,
        logit_scale=encoder.logit_scale,
        step=8,
        result={"headline": {}},
    )
    folder = tmp_path_factory.mktemp("tuned") / "model"
    save_model(folder, weights, manifest)
    return folder


SHAPES = ("circle", "cross", "square", "triangle")


@pytest.fixture(scope="session")
def draw_dataset() -> Callable[..., None]:
    """draw_dataset(folder, domains=(), classes=SHAPES, num_images=5, size=40): pictures of shapes, by domain if any."""

    def draw(
        folder: Path, domains: tuple[str, ...] = (), classes: tuple[str, ...] = SHAPES, num_images: int = 5, size=40
    ) -> None:
        for domain in domains or ("",):
            for shape in classes:
                (folder / domain / shape).mkdir(parents=True)
                for number in range(num_images):
                    picture = _shape(shape, domain, size, random.Random(f"{domain}/{shape}/{number}"))
                    picture.save(folder / domain / shape / f"{number}.png")

    return draw


@pytest.fixture(scope="session")
def write_run(tiny_base_model: BaseModel, draw_dataset) -> Callable[..., RunDir]:
    """write_run(folder, domains=(), num_images=5, **fields): a run directory for the tiny model, ready to train."""

    def write(folder: Path, domains: tuple[str, ...] = (), num_images: int = 5, **fields) -> RunDir:
        run_dir = RunDir(folder)
        draw_dataset(run_dir.dataset, domains, num_images=num_images)
        run_dir.write_config(tiny_config(tiny_base_model, **fields))
        return run_dir

    return write


@dataclass(frozen=True)
class HeldStep:
    """A step in whose middle a trainer waits, as alignclip_core/faults.py has it; `environment` is the trainer's."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {FAULTS_VARIABLE: str(self.folder)}

    def is_reached(self) -> bool:
        return any(self.folder.glob("mid_step.*"))

    def release(self) -> None:
        for path in self.folder.glob("mid_step.*"):
            path.unlink()


@pytest.fixture
def hold_step(tmp_path: Path) -> Callable[[int], HeldStep]:
    """hold_step(n): the n-th step that trainers with its environment come to."""

    def hold(number: int) -> HeldStep:
        folder = tmp_path / "faults"
        folder.mkdir()
        (folder / "mid_step").write_text(str(number))
        return HeldStep(folder)

    return hold


@pytest.fixture
def make_run(tmp_path: Path, write_run) -> Callable[..., RunDir]:
    """make_run(name="run", **of_write_run): the same in the test's own folder."""
    return lambda name="run", **fields: write_run(tmp_path / name, **fields)


@pytest.fixture(scope="session")
def similarity(tiny_base_model: BaseModel) -> ClassSimilarity:
    """Of the shapes, by the tiny model's text tower."""
    return class_similarity_of(build_text_encoder(tiny_base_model), SHAPES, ("a photo of a {}.",))


@pytest.fixture
def make_trainer(make_run, tiny_base_model: BaseModel, similarity: ClassSimilarity) -> Callable[..., Trainer]:
    """make_trainer(run_dir=None, ranks=Ranks(), **fields): a trainer of the tiny model.

    Where no run is given it trains on drawn shapes, the same ones each time.
    """

    def make(run_dir: RunDir | None = None, ranks: Ranks | None = None, **fields) -> Trainer:
        run_dir = run_dir or make_run(f"run{len(made)}", **fields)
        made.append(run_dir)
        config = run_dir.read_config()
        split = split_dataset(read_layout(list_folder(run_dir.dataset)), config)
        return Trainer(
            build_image_encoder(tiny_base_model),
            config,
            similarity,
            split,
            inputs=run_dir.inputs,
            limits=DEFAULT_LIMITS,
            ranks=ranks or Ranks(),
            text_encoder=build_text_encoder(tiny_base_model) if config.algorithm in PROMPT_LEARNERS else None,
        )

    made: list[RunDir] = []
    return make


def tiny_config(base_model: BaseModel, algorithm: str = "alignclip", **fields) -> FinetuneConfig:
    given = {"num_steps": 8, "global_batch_size": 6, "learning_rate": 1e-3} | fields
    data = {name: given.pop(name) for name in ("unseen_classes", "test_domains", "seed") if name in given}
    names = {shape: shape for shape in SHAPES}
    return make_config(base_model, class_names=names, algorithm=algorithm, given=given | data)


def _shape(shape: str, domain: str, size: int, lot: random.Random) -> Image.Image:
    picture = Image.new("RGB", (size + lot.randrange(9), size), tuple(lot.randrange(150, 256) for _ in range(3)))
    draw = ImageDraw.Draw(picture)
    color = tuple(lot.randrange(110) for _ in range(3))
    left, top, side = lot.randrange(size // 3), lot.randrange(size // 3), size // 2
    box = (left, top, left + side, top + side)
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rectangle(box, fill=color)
    elif shape == "triangle":
        draw.polygon([(left, top + side), (left + side, top + side), (left + side // 2, top)], fill=color)
    else:
        draw.line(box, fill=color, width=5)
        draw.line((box[2], box[1], box[0], box[3]), fill=color, width=5)
    if domain == "dotted":
        draw.point([(lot.randrange(size), lot.randrange(size)) for _ in range(80)], fill="black")
    return picture

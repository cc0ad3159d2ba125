"""The model that is served, its pictures and labels, and what it does without a server."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, BaseModel, find_base_model
from alignclip_core.classifier import Classifier
from alignclip_core.finished_model import load_base_model
from alignclip_core.images import decode_image
from alignclip_core.pixels import prepare_image
from alignclip_core.runtimes.choosing import RuntimeChoice, make_tower

ARCHITECTURE = "ViT-B-32"
MODEL = "benchmark"
LABELS = ("cat", "cow", "dog", "horse")
BATCH_SIZES = (8, 16, 32)


def make_base_model(models_dir: Path) -> None:
    """ViT-B/32 with random weights: they take as long as trained ones."""
    folder = models_dir / MODEL
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = open_clip.get_model_config(ARCHITECTURE)
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def base_model(models_dir: Path, model_id: str = MODEL) -> BaseModel:
    """Its card."""
    return find_base_model(model_id, models_dir)


def load_classifier(model: BaseModel, *, precision: str) -> Classifier:
    """The model as the service loads it."""
    whole = load_base_model(model)
    choice = RuntimeChoice(precision=precision)  # type: ignore[arg-type]
    return Classifier.of(whole, make_tower(whole.image_encoder, choice, name=model.id))


class BareModel:
    """The model without HTTP, queue or batcher, on all cores."""

    def __init__(self, classifier: Classifier, pictures: Sequence[bytes]) -> None:
        self.classifier = classifier
        self.pictures = pictures
        self._pool = ThreadPoolExecutor(torch.get_num_threads())

    def forward_images_per_second(self, seconds: float) -> float:
        """Forward passes alone, of pixels that are there, at the best batch size."""
        pixels = torch.stack(self._decode(BATCH_SIZES[-1]))
        passes = [lambda size=size: self.classifier.features(pixels[:size]) for size in BATCH_SIZES]
        each = seconds / len(BATCH_SIZES)
        return max(size * _rate(run, each) for size, run in zip(BATCH_SIZES, passes, strict=True))

    def decoded_images_per_second(self, seconds: float) -> float:
        """JPEG to features: decoded in as many threads as there are cores, then the forward pass."""
        size = BATCH_SIZES[-1]
        return size * _rate(lambda: self.classifier.features(torch.stack(self._decode(size))), seconds)

    def one_image_milliseconds(self, seconds: float) -> float:
        """The median of decode and forward pass of one image."""
        times = []
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            self.classifier.features(self._prepare(self.pictures[len(times) % len(self.pictures)])[None])
            times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times)

    def _decode(self, num_images: int) -> list[torch.Tensor]:
        pictures = [self.pictures[index % len(self.pictures)] for index in range(num_images)]
        return list(self._pool.map(self._prepare, pictures))

    def _prepare(self, picture: bytes) -> torch.Tensor:
        return prepare_image(decode_image(picture), self.classifier.preprocessing)


def _rate(run: Callable[[], object], seconds: float) -> float:
    """How often a second, over so many seconds, after one time to warm up."""
    run()
    started = time.perf_counter()
    num_runs = 0
    while (passed := time.perf_counter() - started) < seconds:
        run()
        num_runs += 1
    return num_runs / passed

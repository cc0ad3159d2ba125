"""Loaded models: text towers once each, image towers while they fit in memory, each loaded once however many ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor

from alignclip_core.base_models import BaseModel, find_base_model
from alignclip_core.classifier import Classifier
from alignclip_core.encoder import ImageEncoder, TextEncoder, build_image_encoder, build_text_encoder
from alignclip_core.encoder.text_tower import BATCH_SIZE
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnknown
from alignclip_core.finished_model import FinishedModel, load_base_model, load_finished_model
from alignclip_core.prompts import embed_classes
from alignclip_core.runtimes.choosing import RuntimeChoice, make_tower
from alignclip_store import tables
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.errors import ModelNotFound
from alignclip_store.settings import Settings

MAX_EMBEDDINGS = 200_000  # of 512 floats each: 400 MB at most

Kind = Literal["classifier", "whole"]  # what is kept of a model: its image tower as it serves, or all of it in fp32
KINDS: tuple[Kind, ...] = get_args(Kind)
Loaded = Classifier | FinishedModel

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class KeyedLocks:
    """One lock per key, for as long as somebody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextmanager
    def holding(self, key: Hashable) -> Iterator[None]:
        """Wait for the key's lock and hold it during the block."""
        with self._guard:
            lock, num_users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, num_users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                _, num_users = self._locks.pop(key)
                if num_users > 1:
                    self._locks[key] = lock, num_users - 1


class BoundedCache(Generic[Key, Value]):
    """Keeps what was used last while the sum of sizes fits, and what is pinned.

    A single value over the bound is kept alone.
    """

    def __init__(self, max_size: int, size_of: Callable[[Value], int]) -> None:
        self._max_size = max_size
        self._size_of = size_of
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._size = 0
        self._pinned: set[Key] = set()
        self._guard = threading.Lock()

    def get(self, key: Key) -> Value | None:
        with self._guard:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        with self._guard:
            self._drop(key)
            self._values[key] = value
            self._size += self._size_of(value)
            for other in [one for one in self._values if one != key and one not in self._pinned]:
                if self._size <= self._max_size:
                    break
                self._drop(other)

    def drop(self, key: Key) -> None:
        with self._guard:
            self._drop(key)

    def pin(self, key: Key) -> None:
        """Keep the key's value whatever is used, until it is dropped."""
        with self._guard:
            self._pinned.add(key)

    def is_pinned(self, key: Key) -> bool:
        return key in self._pinned

    def items(self) -> list[tuple[Key, Value]]:
        """Everything kept, what was used last at the end."""
        with self._guard:
            return list(self._values.items())

    def __len__(self) -> int:
        return len(self._values)

    def _drop(self, key: Key) -> None:
        self._pinned.discard(key)
        if key in self._values:
            self._size -= self._size_of(self._values.pop(key))


class ModelCache:
    """The models of one API process."""

    def __init__(self, settings: Settings, artifacts: ArtifactStore, scratch: Path) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._scratch = scratch
        self._loading = KeyedLocks()
        self._encoding = KeyedLocks()  # tokenizers do not bear two threads
        self._text_encoders: dict[str, TextEncoder] = {}
        self._towers: dict[str, ImageEncoder] = {}  # without weights
        self._runtime = RuntimeChoice(
            runtime=settings.serving_runtime, precision=settings.serving_precision, device=settings.serving_device
        )
        self._loaded: BoundedCache[tuple[Kind, str], Loaded] = BoundedCache(settings.model_cache_bytes, _num_bytes)
        self._embeddings: BoundedCache[tuple[str, tuple[str, ...], bool, str], Tensor] = BoundedCache(
            MAX_EMBEDDINGS, lambda _: 1
        )
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def base_model(self, model_id: str) -> BaseModel:
        """The card of a local base model that the operator allows. Raises `BaseModelUnknown` or `BaseModelNotLocal`."""
        return find_base_model(model_id, self._settings.models_location, self._settings.allowed_base_models)

    def allows(self, base_model: BaseModel) -> bool:
        """Whether the operator lets this base model be used."""
        allowed = self._settings.allowed_base_models
        return allowed is None or base_model.id in allowed

    def is_base_model(self, model_id: str) -> bool:
        """Whether a base model has that id, local or not."""
        try:
            find_base_model(model_id, self._settings.models_location)
        except BaseModelNotLocal:
            return True
        except BaseModelUnknown:
            return False
        return True

    def find_base_model(self, model_id: str) -> BaseModel | None:
        """The card of a local base model, or None: the id may be a tuned model's.

        Raises `ModelNotFound` for a base model that is known and not on this machine.
        """
        try:
            return self.base_model(model_id)
        except BaseModelUnknown:
            return None
        except BaseModelNotLocal as error:
            raise ModelNotFound(error.message, param="model") from error

    def tower_without_weights(self, base_model: BaseModel) -> ImageEncoder:
        """Names and shapes of the image tower. Raises `BaseModelUnfit` for a tower that cannot be trained."""
        with self._loading.holding(("shape", base_model.id)):
            if base_model.id not in self._towers:
                self._towers[base_model.id] = build_image_encoder(base_model).to("meta")
            return self._towers[base_model.id]

    def text_encoder(self, base_model: BaseModel) -> TextEncoder:
        """The text tower; base models with the same text model share it."""
        with self._loading.holding(("text", base_model.text_model)):
            if base_model.text_model not in self._text_encoders:
                self._text_encoders[base_model.text_model] = build_text_encoder(base_model)
            return self._text_encoders[base_model.text_model]

    @contextmanager
    def encoding(self, base_model: BaseModel) -> Iterator[TextEncoder]:
        """The text tower for one thread at a time."""
        encoder = self.text_encoder(base_model)
        with self._encoding.holding(encoder.text_model):
            yield encoder

    def classifier(self, model: BaseModel | tables.Model) -> Classifier:
        """The classifier of a base model, zero-shot, or of a tuned one, warm. Raises `ArtifactCorrupt`."""

        def load() -> Classifier:
            whole = self._open(model)
            return Classifier.of(whole, make_tower(whole.image_encoder, self._runtime, name=model.id))

        loaded = self._load("classifier", model.id, load)
        assert isinstance(loaded, Classifier)
        return loaded

    def finished_model(self, model: BaseModel | tables.Model) -> FinishedModel:
        """The model with its whole image tower in fp32, which explanations look into. Raises `ArtifactCorrupt`."""
        loaded = self._load("whole", model.id, lambda: self._open(model))
        assert isinstance(loaded, FinishedModel)
        return loaded

    def _open(self, model: BaseModel | tables.Model) -> FinishedModel:
        """The model from its files, which are fetched and whose hashes are checked."""
        if isinstance(model, BaseModel):
            return load_base_model(model)
        base_model = self.base_model(model.base_model)
        local = self._artifacts.local_path(model.artifact_uri)
        if local is not None:
            return load_finished_model(local, base_model)
        with TemporaryDirectory(dir=self._scratch, prefix="model-") as folder:
            fetched = self._artifacts.fetch_folder(model.artifact_uri, Path(folder) / "model")
            return load_finished_model(fetched, base_model)

    def pin(self, model: BaseModel | tables.Model) -> Classifier:
        """The classifier, kept loaded until it is forgotten or the process ends."""
        classifier = self.classifier(model)
        self._loaded.pin(("classifier", model.id))
        return classifier

    def is_pinned(self, model_id: str) -> bool:
        return self._loaded.is_pinned(("classifier", model_id))

    def classifiers(self) -> dict[str, Classifier]:
        """Everything that is loaded to classify, by model."""
        return {model_id: each for (_, model_id), each in self._loaded.items() if isinstance(each, Classifier)}

    def forget(self, model_id: str) -> None:
        """Free a model that was deleted or is not needed now; who uses it at this moment keeps it."""
        for kind in KINDS:
            self._loaded.drop((kind, model_id))

    def class_embeddings(
        self, base_model: BaseModel, labels: Sequence[str], templates: Sequence[str], *, hyphens_to_spaces: bool = False
    ) -> Tensor:
        """Class embeddings [labels, dim] of unit length; only labels that are new meet the text tower.

        Between its batches a request of many new labels leaves the tower to others.
        """
        keys = {label: (base_model.text_model, tuple(templates), hyphens_to_spaces, label) for label in labels}
        found = {label: self._embeddings.get(key) for label, key in keys.items()}
        missing = [label for label, embedding in found.items() if embedding is None]
        for start in range(0, len(missing), BATCH_SIZE):
            batch = missing[start : start + BATCH_SIZE]
            with self.encoding(base_model) as encoder:
                computed = embed_classes(encoder, batch, templates, hyphens_to_spaces)
            for label, embedding in zip(batch, computed, strict=True):
                found[label] = embedding.clone()
                self._embeddings.put(keys[label], embedding.clone())
        return torch.stack([embedding for label in labels if (embedding := found[label]) is not None])

    def _load(self, kind: Kind, model_id: str, load: Callable[[], Loaded]) -> Loaded:
        with self._loading.holding((kind, model_id)):
            loaded = self._loaded.get((kind, model_id))
            if loaded is None:
                loaded = load()
                self._loaded.put((kind, model_id), loaded)
            return loaded


def _num_bytes(loaded: Loaded) -> int:
    if isinstance(loaded, Classifier):
        return loaded.num_bytes
    return sum(value.nbytes for value in loaded.image_encoder.state_dict().values())

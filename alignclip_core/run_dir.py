"""The run directory: the whole interface between service and trainer. Loads no torch.

docs/run_directory.md is the contract in words. The service writes `inputs/`, the trainer everything else.

    RUN_DIR/inputs/config.json                the FinetuneConfig
            inputs/similarity.safetensors     class embeddings and their cosine matrix; computed if it is absent
            inputs/dataset/                   class/image or domain/class/image
            inputs/dataset.json               the list of its images, where the folders do not say all
            inputs/validation/                the same, only when a validation set was given
            inputs/test-NAME/                 the same of each other dataset that the weights are asked about
            inputs/test-NAME.classes.json     folder name to the words for it, where these differ
            metrics.jsonl                     one Record a line, appended by rank 0
            checkpoints/step-000500/          resume points, complete when they have their name
            model/                            weights and manifest that serve, complete when it exists
            error.json                        TrainerError, written by a trainer that failed
            trainer.log                       its stdout and stderr

A classification of a dataset has the same files but for these:

    RUN_DIR/inputs/classification.json        the ClassificationConfig, in place of config.json
            inputs/model/                     the tuned model that is asked; absent for a base model
            results.jsonl                     a line an image, complete when it has its name
            result.json                       counts of them and their hash, written last
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import ArtifactCorrupt, ConfigInvalid

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by SIGTERM with a checkpoint; may go on

TEST_PREFIX = "test-"
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FORMAT_VERSION = 1

RecordKind = Literal["phase", "train", "evaluation", "classify", "checkpoint", "event"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of metrics.jsonl: what a trainer says while it works.

    kind        values
    phase       {"phase": "loading" | "evaluating_zero_shot" | "training" | "evaluating" | "classifying" | "saving"}
    train       {"loss", "smoothing_loss", "layer_alignment_loss", "similarity_alignment_loss", "accuracy",
                 "learning_rate", "images_per_second", "bma_weight"}
    evaluation  {"raw": Evaluation, "bma" | "swad" | "interpolated": Evaluation} on source validation; "zero_shot" alone
                 at step 0
    classify    {"images_per_second"}; the step is the number of images that have their line
    checkpoint  {"folder": "step-000500"}; the folder is complete
    event       {"level": "info" | "warn" | "error", "message": str}
    """

    step: int
    kind: RecordKind
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """What a model is asked of a dataset: content of classification.json.

    The labels are those of inputs/similarity.safetensors.
    """

    base_model: str
    top_k: int = 5  # labels of each image that are told
    max_image_bytes: int = 32 * 2**20  # an image over these limits gets an error in its line
    max_image_pixels: int = 50_000_000
    runtime: Literal["auto", "torch", "openvino"] = "auto"  # as the API serves
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainerError:
    """Why a trainer failed: content of error.json."""

    code: str
    message: str
    param: str | None = None
    traceback: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassSimilarity:
    """Text features of the classes and their cosine matrix, as the POST computed them and the trainer reads them."""

    class_names: tuple[str, ...]  # display names, in the order of FinetuneConfig.class_names
    templates: tuple[str, ...]
    text_model: str
    class_embeddings: np.ndarray  # float32 [classes, dim], unit length
    cosine: np.ndarray  # float32 [classes, classes]

    @property
    def sha256(self) -> str:
        """Hex digest over names, templates, text model and the matrix: equal inputs give equal digests."""
        head = json.dumps([self.class_names, self.templates, self.text_model], ensure_ascii=True)
        return hashlib.sha256(head.encode() + np.ascontiguousarray(self.cosine, dtype="<f4").tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write aside, fsync, rename."""
        metadata = {
            "class_names": json.dumps(self.class_names),
            "templates": json.dumps(self.templates),
            "text_model": self.text_model,
            "sha256": self.sha256,
        }
        tensors = {"class_embeddings": self.class_embeddings, "cosine": self.cosine}
        write_file(
            path, save({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, metadata)
        )

    @classmethod
    def load(cls, path: Path) -> ClassSimilarity:
        """Raises `ArtifactCorrupt` when it cannot be read or the matrix does not fit its recorded hash."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                similarity = cls(
                    class_names=tuple(json.loads(metadata["class_names"])),
                    templates=tuple(json.loads(metadata["templates"])),
                    text_model=metadata["text_model"],
                    class_embeddings=file.get_tensor("class_embeddings"),
                    cosine=file.get_tensor("cosine"),
                )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ArtifactCorrupt(f"{path.name} holds no class similarity ({error}).") from error
        if similarity.sha256 != metadata.get("sha256"):
            raise ArtifactCorrupt(f"{path.name} does not fit its recorded hash {metadata.get('sha256')}.")
        return similarity


@dataclass(frozen=True)
class RunDir:
    """Names, readers and writers of the files in one run directory."""

    path: Path

    @property
    def inputs(self) -> Path:
        return self.path / "inputs"

    @property
    def config_file(self) -> Path:
        return self.inputs / "config.json"

    @property
    def classification_file(self) -> Path:
        return self.inputs / "classification.json"

    @property
    def asked_model(self) -> Path:
        return self.inputs / "model"

    @property
    def similarity_file(self) -> Path:
        return self.inputs / "similarity.safetensors"

    @property
    def dataset(self) -> Path:
        return self.inputs / "dataset"

    @property
    def validation(self) -> Path:
        return self.inputs / "validation"

    @property
    def has_validation(self) -> bool:
        """A set that is streamed has a list and no folder."""
        return self.validation.is_dir() or self.validation.with_suffix(".json").is_file()

    @property
    def test_datasets(self) -> tuple[str, ...]:
        """Names of the other datasets that the weights are asked about, sorted."""
        found = self.inputs.glob(f"{TEST_PREFIX}*")
        return tuple(sorted({path.name.removeprefix(TEST_PREFIX).partition(".")[0] for path in found}))

    def test_dataset(self, name: str) -> Path:
        """Where one of them lies; a name has letters, digits, "_" and "-"."""
        return self.inputs / f"{TEST_PREFIX}{name}"

    def read_test_class_names(self, name: str) -> dict[str, str] | None:
        """Folder name to the words for it in one of them; None where none are given."""
        file = self._test_class_names_file(name)
        return json.loads(file.read_text()) if file.is_file() else None

    def write_test_class_names(self, name: str, class_names: Mapping[str, str]) -> None:
        write_file(self._test_class_names_file(name), json.dumps(dict(class_names)).encode())

    def _test_class_names_file(self, name: str) -> Path:
        return self.inputs / f"{TEST_PREFIX}{name}.classes.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def answers_file(self) -> Path:
        return self.path / "results.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def error_file(self) -> Path:
        return self.path / "error.json"

    @property
    def log_file(self) -> Path:
        return self.path / "trainer.log"

    def read_config(self) -> FinetuneConfig:
        """Raises `ConfigInvalid` when the file is missing or a value cannot be used."""
        return FinetuneConfig.from_json(_read_fields(self.config_file, FinetuneConfig))

    def write_config(self, config: FinetuneConfig) -> None:
        write_file(self.config_file, json.dumps(config.to_json(), indent=2).encode())

    def read_classification(self) -> ClassificationConfig:
        """Raises `ConfigInvalid` when the file is missing or has other fields."""
        values = _read_fields(self.classification_file, ClassificationConfig)
        try:
            return ClassificationConfig(**values)
        except TypeError as error:
            raise ConfigInvalid(f"{self.classification_file} does not fit: {error}.") from error

    def write_classification(self, config: ClassificationConfig) -> None:
        write_file(self.classification_file, json.dumps(asdict(config), indent=2).encode())

    def append_record(self, record: Record) -> None:
        """One whole line in one write, so that a reader never sees half a record followed by another."""
        with self.metrics_file.open("ab") as file:
            file.write(json.dumps(asdict(record)).encode() + b"\n")

    def drop_partial_record(self) -> None:
        """Cut off what a trainer that was killed in the middle of a line left, before the next one appends."""
        if self.metrics_file.is_file():
            content = self.metrics_file.read_bytes()
            os.truncate(self.metrics_file, content.rfind(b"\n") + 1)

    def read_records(self, offset: int = 0) -> tuple[list[Record], int]:
        """The records that are complete from byte `offset` on, and the offset behind the last of them."""
        if not self.metrics_file.is_file():
            return [], offset
        with self.metrics_file.open("rb") as file:
            file.seek(offset)
            complete, _, _ = file.read().rpartition(b"\n")
        if not complete:
            return [], offset
        records = [Record(**json.loads(line)) for line in complete.split(b"\n") if line]
        return records, offset + len(complete) + 1

    def write_error(self, error: TrainerError) -> None:
        write_file(self.error_file, json.dumps(asdict(error), indent=2).encode())

    def read_error(self) -> TrainerError | None:
        return TrainerError(**json.loads(self.error_file.read_text())) if self.error_file.is_file() else None

    def checkpoint_folder(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def list_checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of every complete checkpoint, oldest first."""
        return sorted(_checkpoints(self.checkpoints))

    def checkpoint_accuracy(self, folder: Path) -> float | None:
        """Of a checkpoint's kept weights on source validation, by the latest evaluation up to it; None: none was."""
        accuracy: float | None = json.loads((folder / MANIFEST_FILE).read_text()).get("validation_accuracy")
        return accuracy

    def superseded_checkpoints(self, num_newest: int) -> list[Path]:
        """The folders of complete checkpoints that are neither among the newest nor the most accurate."""
        checkpoints = self.list_checkpoints()
        accuracies = [(self.checkpoint_accuracy(folder), step) for step, folder in checkpoints]
        best = max(((accuracy, step) for accuracy, step in accuracies if accuracy is not None), default=None)
        return [folder for step, folder in checkpoints[:-num_newest] if best is None or step != best[1]]

    def read_manifest(self) -> dict[str, Any] | None:
        """The finished model's manifest; None while there is no finished model."""
        manifest = self.model / MANIFEST_FILE
        return json.loads(manifest.read_text()) if manifest.is_file() else None

    def read_result(self) -> dict[str, Any] | None:
        """What a classification counted and the hash of its answers; None while it is not complete."""
        return json.loads(self.result_file.read_text()) if self.result_file.is_file() else None

    @property
    def is_complete(self) -> bool:
        """Whether what was asked for is there: a model, or the answers of one."""
        return self.read_manifest() is not None or self.read_result() is not None


def _read_fields(file: Path, fields_of: type) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigInvalid(f"{file} is missing; it holds the fields of {fields_of.__name__} as JSON.")
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigInvalid(f"{file} is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigInvalid(f"{file} must hold an object with the fields of {fields_of.__name__}.")
    return values


def write_file(path: Path, content: bytes) -> None:
    """Write aside, fsync and rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def file_sha256(path: Path) -> str:
    """Of the file's content, in hex; it is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("step-*") if folder.is_dir() else []:
        if re.fullmatch(r"step-\d{6,}", path.name) and (path / MANIFEST_FILE).is_file():
            yield int(path.name.removeprefix("step-")), path

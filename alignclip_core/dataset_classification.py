"""A model asked of every image of a dataset: what that reads from the run directory, and the line of each image."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from alignclip_core import faults
from alignclip_core.classifier import BATCH_SIZE, Classifier, can_reject, predictions
from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.listing import read_staged
from alignclip_core.dataset.samples import Sample
from alignclip_core.encoder import TextEncoder, build_text_encoder
from alignclip_core.errors import ImageRejected, TrainingStopped
from alignclip_core.finished_model import FinishedModel, open_model
from alignclip_core.images import ImageLimits
from alignclip_core.loading import NUM_AHEAD, prefetch
from alignclip_core.pixels import decode_pixels, prepare_pixels
from alignclip_core.prompts import readable_names
from alignclip_core.run_dir import MANIFEST_FILE, ClassSimilarity, Record, RecordKind, RunDir, file_sha256, write_file
from alignclip_core.runtimes.choosing import RuntimeChoice, make_tower

DECIMALS = 6  # of a score
TELL_SECONDS = 2.0  # between two records of how far it is
CHECKPOINT_SECONDS = 300.0  # each holds all lines so far: half a gigabyte for a million images
KEPT_CHECKPOINTS = 2

log = logging.getLogger(__package__)

Line = dict[str, Any]


class DatasetClassification:
    """A classifier with its run directory: reads the inputs, writes results.jsonl and result.json."""

    def __init__(self, run_dir: RunDir, *, models_dir: Path, stop: threading.Event) -> None:
        self._run_dir = run_dir
        self._stop = stop
        self._num_done = 0  # images that have their line
        self._saved_at = time.monotonic()
        self._say("phase", {"phase": "loading"})
        config = run_dir.read_classification()
        self._limits = ImageLimits(max_bytes=config.max_image_bytes, max_pixels=config.max_image_pixels)
        self._samples = read_staged(run_dir.dataset, min_classes=0).samples
        self._model = _open_asked_model(run_dir, config.base_model, models_dir)
        choice = RuntimeChoice(runtime=config.runtime, precision=config.precision, device=config.device)
        tower = make_tower(self._model.image_encoder, choice, name=config.base_model)
        self._classifier = Classifier.of(self._model, tower)
        self._answers = Answers(
            self._model, self._classifier, ClassSimilarity.load(run_dir.similarity_file), top_k=config.top_k
        )

    def run(self) -> None:
        """Answer for every image that has no line yet. Raises `TrainingStopped` once the lines are kept."""
        file = self._run_dir.answers_file
        partial = file.with_name(f".{file.name}.part")
        self._resume(partial)
        self._say("phase", {"phase": "classifying"})
        with partial.open("ab") as opened:
            self._classify(opened)
            opened.flush()
            os.fsync(opened.fileno())
        self._say("phase", {"phase": "saving"})
        partial.replace(file)
        counted = count_answers(read_lines(file), self._answers.labels, self._model.class_names)
        result = {**counted, "sha256": file_sha256(file)}
        write_file(self._run_dir.result_file, json.dumps(result).encode())
        num_images, num_failed = counted["num_images"], counted["num_failed"]
        self._tell("info", f"{num_images - num_failed:,} images are classified, {num_failed:,} cannot be read.")

    def _resume(self, partial: Path) -> None:
        """Begin with the lines of the newest checkpoint that is whole and whose images are still the dataset's."""
        partial.unlink(missing_ok=True)
        for num_done, folder in reversed(self._run_dir.list_checkpoints()):
            lines = folder / self._run_dir.answers_file.name
            manifest = json.loads((folder / MANIFEST_FILE).read_text())
            if not lines.is_file() or file_sha256(lines) != manifest["sha256"]:
                self._tell("warn", f"Checkpoint {folder.name} does not fit its hash and is left out.")
            elif [line["path"] for line in read_lines(lines)] != [each.path for each in self._samples[:num_done]]:
                self._tell("warn", f"Checkpoint {folder.name} is of other images and is left out.")
            else:
                shutil.copyfile(lines, partial)
                self._num_done = num_done
                self._tell("info", f"Going on from image {num_done:,} of {len(self._samples):,}.")
                return

    def _classify(self, opened: BinaryIO) -> None:
        samples = self._samples[self._num_done :]
        images = prefetch(self._load, samples, torch.get_num_threads(), NUM_AHEAD * BATCH_SIZE)
        told_at, told_done = time.monotonic(), self._num_done
        for batch in _batches(zip(samples, images, strict=True)):
            opened.writelines(json.dumps(line).encode() + b"\n" for line in self._answers.of(batch))
            self._num_done += len(batch)
            faults.reach("mid_step")
            now = time.monotonic()
            if now - told_at > TELL_SECONDS or self._num_done == len(self._samples):
                rate = (self._num_done - told_done) / max(now - told_at, 1e-9)
                self._say("classify", {"images_per_second": rate})
                told_at, told_done = now, self._num_done
            if self._stop.is_set() and self._num_done < len(self._samples):
                self._save_checkpoint(opened)
                raise TrainingStopped(f"Stopped at image {self._num_done:,} of {len(self._samples):,}.")
            if now - self._saved_at > CHECKPOINT_SECONDS:
                self._save_checkpoint(opened)

    def _load(self, sample: Sample) -> Tensor | ImageRejected:
        """The image as the tower takes it, or why there is none."""
        try:
            content = read_sample(self._run_dir.dataset, sample, self._limits)
            return prepare_pixels(decode_pixels(content, self._limits), self._classifier.preprocessing)
        except ImageRejected as error:
            return error

    def _save_checkpoint(self, opened: BinaryIO) -> None:
        """All lines so far, under the number of their images."""
        opened.flush()
        folder = self._run_dir.checkpoint_folder(self._num_done)
        lines = folder / self._run_dir.answers_file.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(opened.name, lines)
        manifest = {"num_done": self._num_done, "sha256": file_sha256(lines)}
        write_file(folder / MANIFEST_FILE, json.dumps(manifest).encode())  # last: it makes the folder a checkpoint
        for superseded in self._run_dir.superseded_checkpoints(KEPT_CHECKPOINTS):
            shutil.rmtree(superseded)
        self._say("checkpoint", {"folder": folder.name})
        self._saved_at = time.monotonic()

    def _tell(self, level: str, message: str) -> None:
        log.info(message)
        self._say("event", {"level": level, "message": message})

    def _say(self, kind: RecordKind, values: Mapping[str, Any]) -> None:
        self._run_dir.append_record(Record(step=self._num_done, kind=kind, values=values))


class Answers:
    """Images -> lines: the same scores, calibration and threshold with which the model serves."""

    def __init__(
        self, model: FinishedModel, classifier: Classifier, similarity: ClassSimilarity, *, top_k: int
    ) -> None:
        self.labels = similarity.class_names
        self._model, self._classifier, self._top_k = model, classifier, top_k
        self._can_reject = can_reject(classifier.calibration, self.labels, model.labels)
        self._embeddings = torch.from_numpy(similarity.class_embeddings)
        learned = model.learned_classes
        self._text_encoder: TextEncoder | None = None
        if learned is not None and learned.knows(self.labels):
            self._text_encoder = build_text_encoder(model.base_model)
            if not model.needs_image_features:
                self._embeddings = model.class_embeddings_of(self._text_encoder, self.labels)

    def of(self, batch: Sequence[tuple[Sample, Tensor | ImageRejected]]) -> Iterator[Line]:
        """The lines of a batch, in its order."""
        answers = self._classify([image for _, image in batch if isinstance(image, Tensor)])
        for sample, image in batch:
            if isinstance(image, ImageRejected):
                yield {"path": sample.path, "error": image.message}
            else:
                yield {"path": sample.path, "label": sample.class_name or None, **next(answers)}

    def _classify(self, images: Sequence[Tensor]) -> Iterator[Line]:
        if not images:
            return
        features = self._classifier.features(torch.stack(list(images)))
        probabilities = self._classifier.probabilities(features, self._embeddings_for(features))
        rejected = self._classifier.rejected(probabilities).tolist() if self._can_reject else [None] * len(images)
        for ranked, is_rejected in zip(predictions(probabilities, self.labels, self._top_k), rejected, strict=True):
            shown = [{"label": best.label, "score": round(best.score, DECIMALS)} for best in ranked]
            yield {"predictions": shown, "rejected": is_rejected}

    def _embeddings_for(self, features: Tensor) -> Tensor:
        """Those of learned prompts may depend on the images; a batch is then what a request is in serving."""
        if self._text_encoder is None or not self._model.needs_image_features:
            return self._embeddings
        return self._model.class_embeddings_of(self._text_encoder, self.labels, image_features=features)


def count_answers(lines: Iterable[Line], labels: Sequence[str], class_names: Mapping[str, str]) -> dict[str, Any]:
    """How often each label came first, and how often that was what the image's folder says.

    Only folders that name one of the labels are judged: `accuracy` is None where there are none.
    `class_names`: folder to display name, as the model was trained with.
    """
    words = {word.casefold(): label for label in labels for word in readable_names(label, hyphens_to_spaces=True)}
    by_label: Counter[str] = Counter()
    num_images = num_failed = num_judged = num_right = 0
    num_rejected: int | None = None  # without a threshold nothing is
    for line in lines:
        num_images += 1
        if "error" in line:
            num_failed += 1
            continue
        best = line["predictions"][0]["label"]
        by_label[best] += 1
        if line["rejected"] is not None:
            num_rejected = (num_rejected or 0) + line["rejected"]
        wanted = _label_of(line["label"], words, class_names)
        if wanted is not None:
            num_judged += 1
            num_right += best == wanted
    return {
        "num_images": num_images,
        "num_failed": num_failed,
        "num_rejected": num_rejected,
        "num_by_label": dict(by_label.most_common()),
        "num_judged": num_judged,
        "accuracy": num_right / num_judged if num_judged else None,
    }


def read_lines(file: Path) -> Iterator[Line]:
    """The lines of a file of answers."""
    with file.open("rb") as opened:
        for line in opened:
            yield json.loads(line)


def _label_of(folder: str | None, words: Mapping[str, str], class_names: Mapping[str, str]) -> str | None:
    """The label that a folder names: by the model's word for it, or by its own, however that is written."""
    if folder is None:
        return None
    named = readable_names(class_names.get(folder, folder), hyphens_to_spaces=True)
    return next((words[word.casefold()] for word in named if word.casefold() in words), None)


def _open_asked_model(run_dir: RunDir, base_model: str, models_dir: Path) -> FinishedModel:
    """The tuned model that was put into the run directory; the base model where none was."""
    return open_model(str(run_dir.asked_model) if run_dir.asked_model.is_dir() else base_model, models_dir)


def _batches(
    images: Iterator[tuple[Sample, Tensor | ImageRejected]],
) -> Iterator[list[tuple[Sample, Tensor | ImageRejected]]]:
    while batch := list(islice(images, BATCH_SIZE)):
        yield batch

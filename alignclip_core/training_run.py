"""One run of the trainer: what it reads from the run directory and writes there."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from alignclip_core.base_models import BaseModel, find_base_model
from alignclip_core.checkpoint import load_checkpoint, make_manifest, save_checkpoint, save_model
from alignclip_core.config import PROMPT_LEARNERS, FinetuneConfig
from alignclip_core.dataset.check import check_images
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.dataset.listing import read_staged
from alignclip_core.dataset.splits import Split, split_dataset
from alignclip_core.encoder import TextEncoder, build_image_encoder, build_text_encoder
from alignclip_core.errors import ArtifactCorrupt, ConfigInvalid, TrainingStopped
from alignclip_core.evaluation import SOURCE_VALIDATION, Evaluation, Evaluations, headline, without_details
from alignclip_core.images import DEFAULT_LIMITS, ImageLimits
from alignclip_core.other_dataset import make_other_dataset
from alignclip_core.prompts import class_similarity_of
from alignclip_core.ranks import Ranks
from alignclip_core.run_dir import ClassSimilarity, Record, RecordKind, RunDir
from alignclip_core.tower_evaluation import OtherDataset
from alignclip_core.trainer import Trainer

KEPT_CHECKPOINTS = 2
# The service has checked each image under its own limits; these only keep out what no machine should decode.
CHECKED_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=170_000_000)
MAY_CHANGE = frozenset(
    {"num_loader_workers", "log_every_steps", "evaluate_every_steps", "checkpoint_every_steps",
     "micro_batch_size", "gradient_checkpointing"}
)  # fmt: skip
"""Fields of the config that may differ between a checkpoint and the run that goes on from it."""

log = logging.getLogger(__package__)


class TrainingRun:
    """A trainer with its run directory: reads the inputs, writes what the trainer yields.

    Every rank has one and does the same in it, but the first alone writes.
    """

    def __init__(
        self, run_dir: RunDir, *, models_dir: Path, stop: threading.Event, is_supervised: bool, ranks: Ranks
    ) -> None:
        self._run_dir = run_dir
        self._ranks = ranks
        self._stop = stop
        self._step = 0
        self._saved_step: int | None = None
        self._zero_shot: Evaluations | None = None
        self._seconds = 0.0  # that steps, and what is measured between them, have taken, over all runs
        self._accuracy: float | None = None  # of the kept weights on source validation, at the latest evaluation
        self._say("phase", {"phase": "loading"})
        self._config = run_dir.read_config()
        self._base_model = find_base_model(self._config.base_model, models_dir)
        self._split = self._read_split(is_supervised)
        self._similarity = self._read_similarity()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._trainer = Trainer(
            build_image_encoder(self._base_model, device),
            self._config,
            self._similarity,
            self._split,
            inputs=run_dir.inputs,
            limits=CHECKED_LIMITS if is_supervised else DEFAULT_LIMITS,
            ranks=ranks,
            text_encoder=self._text_encoder(device),
            others=self._read_others(device, is_supervised),
        )
        processes = f"{ranks.num_ranks} processes on " if ranks.num_ranks > 1 else ""
        self._tell(
            "info",
            f"{len(self._split.train)} images of {len(self._config.trained_classes)} classes train, "
            f"{len(self._split.validation)} validate; {self._config.num_steps} steps of "
            f"{self._config.global_batch_size} on {processes}{device.type}, {torch.get_num_threads()} threads.",
        )

    def resume(self) -> None:
        """Go on from the newest checkpoint whose files are whole, if there is one."""
        for step, folder in reversed(self._run_dir.list_checkpoints()):
            try:
                saved, state = load_checkpoint(folder)
            except ArtifactCorrupt as error:
                self._tell("warn", f"Checkpoint {folder.name} is left out: {error.message}")
                continue
            _check_same_run(folder.name, saved.manifest, self._config, self._similarity)
            self._trainer.load_state_dict(state)
            self._zero_shot = state["zero_shot"]
            self._seconds = state.get("seconds", 0.0)  # older checkpoints did not tell
            self._step = self._saved_step = step
            self._accuracy = self._run_dir.checkpoint_accuracy(folder)
            self._tell("info", f"Going on from step {step} of {self._config.num_steps}.")
            return

    def evaluate_zero_shot(self) -> None:
        """The accuracy of the base model; a run that goes on has it already."""
        if self._zero_shot is None:
            self._say("phase", {"phase": "evaluating_zero_shot"})
            self._zero_shot = self._trainer.evaluate_zero_shot(self._raise_if_stopped)
            self._say_evaluation({"zero_shot": self._zero_shot}, {})

    def fit(self) -> None:
        """Train to the last step, writing metrics and checkpoints; a stop leaves a checkpoint of its step."""
        self._say("phase", {"phase": "training"})
        started = time.perf_counter() - self._seconds
        try:
            for record in self._trainer.fit(self._raise_if_stopped):
                self._step = record.step
                self._seconds = time.perf_counter() - started
                if record.kind == "evaluation" and record.values:
                    self._accuracy = record.values[self._trainer.weight_sets[-1]]["accuracy"]
                if record.kind == "checkpoint":
                    self._save_checkpoint()
                elif record.kind != "train" or self._is_logged(record.step):
                    self._say(record.kind, dict(record.values))
                if self._ranks.any(self._stop.is_set()):  # all ranks at the same record
                    raise self._stopped()
        except TrainingStopped:
            if self._saved_step != self._step:
                self._save_checkpoint()
            raise

    def finish(self) -> None:
        """Evaluate the finished weights and write `model/`, last of all."""
        assert self._zero_shot is not None
        tuned = self._zero_shot
        if self._config.num_steps:
            self._say("phase", {"phase": "evaluating"})
            tuned = self._trainer.evaluate_whole(self._raise_if_stopped)
            *others, kept = self._trainer.weight_sets
            self._say_evaluation(
                {kept: tuned}, self._trainer.evaluate_source_validation(others, after_batch=self._raise_if_stopped)
            )
        self._say("phase", {"phase": "saving"})
        result = {
            "zero_shot": self._zero_shot,
            "tuned": tuned,
            "headline": headline(self._zero_shot, tuned),
            "trained": self._trainer.describe_trained() | {"seconds": round(self._seconds, 3)},
        }
        calibration = self._trainer.calibrate(self._raise_if_stopped)
        told = {} if calibration is None else {"calibration": asdict(calibration)}
        if self._ranks.is_first:
            save_model(self._run_dir.model, self._trainer.finished_weights(), self._manifest(result | told) | told)
        self._tell("info", "The model is complete.")
        self._ranks.wait()  # torchrun takes an end of one for the end of all

    def _text_encoder(self, device: torch.device) -> TextEncoder | None:
        """Only prompts train through the text tower."""
        if self._config.algorithm not in PROMPT_LEARNERS:
            return None
        return build_text_encoder(self._base_model, device)

    def _read_similarity(self) -> ClassSimilarity:
        """The first rank computes it, if anyone must."""
        if not self._ranks.is_first:
            self._ranks.wait()
        similarity = read_similarity(self._run_dir, self._config, self._base_model)
        if self._ranks.is_first:
            self._ranks.wait()
        return similarity

    def _read_split(self, is_supervised: bool) -> Split:
        layout = self._read_layout(self._run_dir.dataset, 2, is_supervised)
        validation = None
        if self._run_dir.has_validation:
            validation = self._read_layout(self._run_dir.validation, 1, is_supervised)
        return split_dataset(layout, self._config, validation)

    def _read_others(self, device: torch.device, is_supervised: bool) -> list[OtherDataset]:
        """The other datasets that are measured; their classes are embedded here, for they train nothing."""
        names = self._run_dir.test_datasets
        if not names:
            return []
        text_encoder = build_text_encoder(self._base_model, device)
        return [
            make_other_dataset(
                name,
                self._read_layout(self._run_dir.test_dataset(name), 2, is_supervised),
                self._run_dir.read_test_class_names(name),
                self._config,
                text_encoder,
            )
            for name in names
        ]

    def _read_layout(self, folder: Path, min_classes: int, is_supervised: bool) -> DatasetLayout:
        """Bad images are left out here where no service has done it; without `skip_bad_images` the first ends all."""
        layout = read_staged(folder, min_classes=min_classes)
        if is_supervised or not self._config.skip_bad_images:
            return layout
        bad = check_images(folder, layout.samples, on_progress=lambda *_: self._raise_if_stopped())
        for image in bad:
            self._tell("warn", f"{image.path} is left out: {image.reason}")
        return read_staged(folder, without={image.path for image in bad}, min_classes=min_classes)

    def _save_checkpoint(self) -> None:
        self._trainer.check_weights()
        self._saved_step = self._step
        if not self._ranks.is_first:
            return
        folder = self._run_dir.checkpoint_folder(self._step)
        state = self._trainer.state_dict() | {"zero_shot": self._zero_shot, "seconds": self._seconds}
        manifest = self._manifest() | {"validation_accuracy": self._accuracy}
        save_checkpoint(folder, self._trainer.finished_weights(), manifest, state)
        self._say("checkpoint", {"folder": folder.name})
        for old in self._run_dir.superseded_checkpoints(KEPT_CHECKPOINTS):
            shutil.rmtree(old)

    def _manifest(self, result: dict[str, Any] | None = None) -> dict[str, Any]:
        return make_manifest(
            self._config,
            self._base_model,
            self._similarity,
            preprocessing=self._trainer.encoder.preprocess,
            logit_scale=self._config.logit_scale or self._trainer.encoder.logit_scale,
            step=self._step,
            result=result,
        )

    def _is_logged(self, step: int) -> bool:
        return step % self._config.log_every_steps == 0 or step == self._config.num_steps

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise self._stopped()

    def _stopped(self) -> TrainingStopped:
        return TrainingStopped(f"Stopped after step {self._step} of {self._config.num_steps}.")

    def _say_evaluation(self, evaluations: dict[str, Evaluations], others: dict[str, Evaluation]) -> None:
        """What these evaluations of all groups, and `others`, say of source validation."""
        domains, classes = SOURCE_VALIDATION
        found = {
            name: without_details(each[domains][classes])
            for name, each in evaluations.items()
            if classes in each.get(domains, {})
        }
        self._say("evaluation", others | found)

    def _say(self, kind: RecordKind, values: dict[str, Any]) -> None:
        if not self._ranks.is_first:
            return
        if kind != "evaluation" or values:
            self._run_dir.append_record(Record(step=self._step, kind=kind, values=values))
        if kind in ("phase", "checkpoint"):
            log.info("step %d: %s", self._step, next(iter(values.values())))

    def _tell(self, level: str, message: str) -> None:
        if self._ranks.is_first:
            log.info("%s: %s", level, message)
        self._say("event", {"level": level, "message": message})


def read_similarity(run_dir: RunDir, config: FinetuneConfig, base_model: BaseModel) -> ClassSimilarity:
    """The matrix among the inputs; computed and written there if it is absent.

    Raises `ArtifactCorrupt` when it was made for other classes, templates or another text model.
    """
    if not run_dir.similarity_file.is_file():
        text_encoder = build_text_encoder(base_model)
        class_similarity_of(
            text_encoder, tuple(config.class_names.values()), config.templates, config.hyphens_to_spaces
        ).save(run_dir.similarity_file)
    similarity = ClassSimilarity.load(run_dir.similarity_file)
    expected = {
        "class_names": tuple(config.class_names.values()),
        "templates": config.templates,
        "text_model": base_model.text_model,
    }
    for name, value in expected.items():
        found = getattr(similarity, name)
        if found != value:
            raise ArtifactCorrupt(
                f"{run_dir.similarity_file.name} was made for {name}={found}, not {value}; remove it to have it "
                "computed again."
            )
    return similarity


def _check_same_run(name: str, manifest: dict[str, Any], config: FinetuneConfig, similarity: ClassSimilarity) -> None:
    """A checkpoint of other settings would give neither run's weights."""
    now = config.to_json() | {"similarity": similarity.sha256}
    then = manifest["config"] | {"similarity": manifest["similarity_sha256"]}
    # SWAD averages from evaluation to evaluation.
    may_change = MAY_CHANGE - {"evaluate_every_steps"} if config.averaging == "swad" else MAY_CHANGE
    for field in now.keys() - may_change:
        if now[field] != then.get(field):
            raise ConfigInvalid(
                f"Checkpoint {name} was made with {field}={then.get(field)}, the config says {now[field]}; "
                "put the value back, or remove the checkpoints to start again.",
                param=field,
            )

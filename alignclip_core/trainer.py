"""The training loop. Yields what it does, step by step, and writes no file."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignclip_core import faults
from alignclip_core.algorithms import make_algorithm
from alignclip_core.calibration import Calibration
from alignclip_core.checkpoint import LEARNED
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.splits import Split
from alignclip_core.encoder import ImageEncoder, TextEncoder, TrainedTower
from alignclip_core.errors import ConfigInvalid, TrainingDiverged
from alignclip_core.evaluation import Evaluation, Evaluations
from alignclip_core.gradients import Gradients
from alignclip_core.images import ImageLimits
from alignclip_core.loading import Batch, TrainingSet, iterate_training
from alignclip_core.method.averaging import BetaMovingAverage, ValleyAverage, make_average
from alignclip_core.method.mixing import interpolate_weights
from alignclip_core.optimizer import learning_rate_at, make_optimizer
from alignclip_core.pixels import normalise
from alignclip_core.ranks import Ranks
from alignclip_core.run_dir import ClassSimilarity, Record
from alignclip_core.tower_evaluation import OtherDataset, TowerEvaluation

EVALUATIONS_A_RUN = 10
EVALUATIONS_A_RUN_FOR_SWAD = 50  # its average begins and ends at evaluations
CHECKPOINTS_A_RUN = 4
SPEED_WINDOW = 20  # steps over which images/s is averaged
WATCHING_SHARE = 0.2  # what evaluations before the last step may cost, as a share of the training between them
PASSES_A_STEP = 3  # a step costs about three forward passes
MIN_WATCHED_IMAGES = 100


class Trainer:
    """One fine-tune of an image tower: weights, optimizer, average and place in the schedule.

    Loading `state_dict()` into a fresh trainer and going on gives the weights of an uninterrupted run, bit for bit.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        config: FinetuneConfig,
        similarity: ClassSimilarity,
        split: Split,
        *,
        inputs: Path,
        limits: ImageLimits,
        ranks: Ranks = Ranks(),  # noqa: B008  (immutable)
        text_encoder: TextEncoder | None = None,
        others: Sequence[OtherDataset] = (),
    ) -> None:
        """`inputs`: the folder that holds `dataset/` and `validation/`. Prompt learners need the text encoder.

        `others` are measured before training and after it.
        """
        self.config = config
        self.encoder = encoder
        self.step = 0
        self._device = next(encoder.parameters()).device
        encoder.pool_by(config.pooling)
        encoder.gradient_checkpointing = config.gradient_checkpointing
        self._tower = TrainedTower(encoder, config)
        self._algorithm = make_algorithm(encoder, similarity, config, text_encoder)
        self._parameters = self._tower.parameters | self._algorithm.learned_parameters
        self._optimizer = make_optimizer(self._tower, self._algorithm, config)
        precision = _precision(config, self._device)
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "fp16")
        self._ranks = ranks
        self._gradients = Gradients(self._algorithm, config, ranks, self._scaler, self._autocast)
        self._average = make_average(self._weights(), config)
        self._start: dict[str, Tensor] | None = None  # θ0, where what is kept is a mixture with it
        if config.interpolation_weight < 1:
            self._start = {name: value.detach().clone() for name, value in self._weights().items()}
        self._evaluation, *self._evaluations_elsewhere = [
            TowerEvaluation(
                self._tower,
                self._algorithm,
                each.similarity,
                each.split,
                each.config,
                inputs=inputs,
                limits=limits,
                ranks=ranks,
                num_threads=self._num_threads,
                autocast=self._autocast,
                diverged=lambda what: _diverged(self.step, what, config),
            )
            for each in (OtherDataset(split, config, similarity), *others)
        ]
        self._check_average()
        self._training_set = _training_set(split, config, inputs, encoder, limits, ranks)

    def fit(self, after_batch: Callable[[], None] = lambda: None) -> Iterator[Record]:
        """Train to the last step. A record for every step; one for each evaluation before the last step; one where a
        checkpoint is due.

        A checkpoint record comes last in its step: who gets it saves `state_dict()` and `finished_weights()` before
        asking for the next. What `after_batch` raises ends an evaluation, and with it the loop, at its step.
        Raises `TrainingDiverged` and `ImageRejected`.
        """
        if self.step == 0:
            torch.manual_seed(self.config.seed)  # of what is random inside a step: DPL's dropout
        evaluate_every = self._evaluate_every
        checkpoint_every = _every(self.config.checkpoint_every_steps, self.config, CHECKPOINTS_A_RUN)
        step_seconds: deque[float] = deque(maxlen=SPEED_WINDOW)
        last_step = self.config.num_steps
        if self.step % evaluate_every == 0 or self.step == last_step:
            self._end_segment(after_batch)  # where a stop came before it
        self._find_micro_batch_size()
        started = time.perf_counter()
        for batch in self._batches():
            values = self._train_step(batch)
            step_seconds.append(time.perf_counter() - started)
            speed = self.config.global_batch_size * len(step_seconds) / sum(step_seconds)
            yield from self._told_events()
            yield Record(step=self.step, kind="train", values=values | {"images_per_second": speed})
            if self.step % evaluate_every == 0 and self.step < last_step:
                num_images = self._num_watched_images(evaluate_every)
                found = self.evaluate_source_validation(self.weight_sets, num_images, after_batch)
                self._end_segment(after_batch, found)
                yield Record(step=self.step, kind="evaluation", values=found)
            if self.step == last_step:
                self._end_segment(after_batch)
            if self.step % checkpoint_every == 0 or self.step == last_step:
                yield Record(step=self.step, kind="checkpoint", values={})
            started = time.perf_counter()

    @property
    def weight_sets(self) -> tuple[str, ...]:
        """Names of the weights that can be evaluated; the last is what is kept in the end."""
        if self._average is None and self._start is None:
            return ("raw",)
        return ("raw", "interpolated" if self._average is None else self.config.averaging)

    def evaluate_source_validation(
        self,
        weight_sets: Sequence[str],
        max_images: int | None = None,
        after_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, Evaluation]:
        """The accuracy of these weights on the validation images, or an even sample of them; {} where are none."""
        if not self._evaluation.has_source_validation:
            return {}
        changed = {
            weights: self._weights() if weights == "raw" else self.finished_parameters() for weights in weight_sets
        }
        return {
            weights: self._evaluation.evaluate_source_validation(values, max_images, after_batch)
            for weights, values in changed.items()
        }

    def evaluate_zero_shot(self, after_batch: Callable[[], None] = lambda: None) -> Evaluations:
        """Every group with the weights before training and the base model's own pooling."""
        self._tower.plain.pool_by(None)
        try:
            return self.evaluate_whole(after_batch, by_texts=True)
        finally:
            self._tower.plain.pool_by(self.config.pooling)

    def evaluate_whole(self, after_batch: Callable[[], None] = lambda: None, *, by_texts: bool = False) -> Evaluations:
        """Every group with the weights that are kept; source validation says where the tower looks, too.

        `by_texts`: by the class texts, whatever the algorithm learns in their place.
        """
        weights = self.finished_parameters()
        found = self._evaluation.evaluate_whole(weights, after_batch, by_texts=by_texts)
        for elsewhere in self._evaluations_elsewhere:
            for domains, groups in elsewhere.evaluate_whole(weights, after_batch, by_texts=by_texts).items():
                found.setdefault(domains, {}).update(groups)
        return found

    def calibrate(self, after_batch: Callable[[], None] = lambda: None) -> Calibration | None:
        """Of the kept weights on source validation; None without enough images or where the config says so."""
        return self._evaluation.calibrate(self.finished_parameters(), after_batch)

    def check_weights(self) -> None:
        """Raises `TrainingDiverged` when a weight is not finite: a gradient can be infinite where the loss is not."""
        for name, parameter in self._parameters.items():
            if not torch.isfinite(parameter).all():
                raise _diverged(self.step, f"the parameter {name}", self.config)

    def finished_parameters(self) -> Mapping[str, Tensor]:
        """The weights that training changes as they are kept: averaged and mixed with the first, where the config
        says so."""
        tuned = self._weights() if self._average is None else self._average.parameters
        if self._start is None:
            return tuned
        return interpolate_weights(self._start, tuned, self.config.interpolation_weight)

    def finished_weights(self) -> dict[str, Tensor]:
        """The whole image tower as it is kept: trained weights, frozen ones and buffers; and learned classes."""
        changed = self.finished_parameters()
        learned = {name: value.detach() for name, value in changed.items() if name.startswith(LEARNED)}
        return self._evaluation.plain_weights(changed) | learned

    def describe_trained(self) -> dict[str, Any]:
        """What training changes: how many numbers, of which modules."""
        modules = {".".join(name.split(".")[:2]) for name in self._parameters}
        num_parameters = sum(value.numel() for value in self._parameters.values())
        if not self.config.num_steps:
            modules, num_parameters = set(), 0
        return {"modules": sorted(modules), "num_parameters": num_parameters}

    def state_dict(self) -> dict[str, Any]:
        """All that a trainer needs to go on from here, as plain values and tensors."""
        return {
            "step": self.step,
            "parameters": {name: value.detach() for name, value in self._parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "gradients": self._gradients.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self._device.type == "cuda" else [],
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the config must be the one that the state was made with."""
        for name, parameter in self._parameters.items():
            parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._gradients.load_state_dict(state["gradients"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        torch.set_rng_state(state["random"])
        if self._device.type == "cuda" and len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.step = state["step"]

    def _weights(self) -> Mapping[str, Tensor]:
        """All that training changes, as it is now."""
        return {**self._tower.weights(), **self._algorithm.learned_parameters}

    def _find_micro_batch_size(self) -> None:
        """Before the first step here, where memory may be short."""
        if self._device.type == "cuda" and self.config.micro_batch_size == "auto":
            size = self.encoder.preprocess.image_size
            self._gradients.probe((3, size, size), self._device)

    def _told_events(self) -> Iterator[Record]:
        for message in self._gradients.events:
            yield Record(step=self.step, kind="event", values={"level": "warn", "message": message})
        self._gradients.events.clear()

    @property
    def _evaluate_every(self) -> int:
        times_a_run = EVALUATIONS_A_RUN_FOR_SWAD if self.config.averaging == "swad" else EVALUATIONS_A_RUN
        return _every(self.config.evaluate_every_steps, self.config, times_a_run)

    def _check_average(self) -> None:
        if isinstance(self._average, ValleyAverage) and not self._evaluation.has_source_validation:
            raise ConfigInvalid(
                "averaging swad follows the loss on validation images, and there are none; give validation_fraction "
                "or a validation set, or another averaging.",
                param="averaging",
            )

    def _end_segment(self, after_batch: Callable[[], None], found: Mapping[str, Evaluation] | None = None) -> None:
        """Tell SWAD the validation loss of the weights as they are, unless it knows."""
        if not isinstance(self._average, ValleyAverage) or not self._average.has_open_segment:
            return
        if found is None:
            num_images = self._num_watched_images(self._evaluate_every)
            found = self.evaluate_source_validation(("raw",), num_images, after_batch)
        self._average.end_segment(found["raw"]["loss"])

    @property
    def _num_threads(self) -> int:
        """Of the loader. On the CPU the trainer itself uses every core."""
        return 1 if self._device.type == "cpu" else min(8, torch.get_num_threads())

    def _num_watched_images(self, evaluate_every: int) -> int | None:
        """So many that watching costs a fifth of training at most; all, where the user said how often to evaluate."""
        if self.config.evaluate_every_steps is not None:
            return None
        forward_passes = PASSES_A_STEP * self.config.global_batch_size * evaluate_every
        return max(MIN_WATCHED_IMAGES, round(WATCHING_SHARE * forward_passes / len(self.weight_sets)))

    def _batches(self) -> Iterator[Batch]:
        return iterate_training(
            self._training_set,
            self.step + 1,
            self.config.num_steps,
            num_threads=self._num_threads,
            pin_memory=self._device.type == "cuda",
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self._autocast_dtype is not None
        return torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=enabled)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One optimizer update; returns what metrics.jsonl says of it."""
        learning_rate = learning_rate_at(self.step, self.config)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        images = normalise(batch.images.to(self._device, non_blocking=True), self.encoder.preprocess)
        labels = batch.labels.to(self._device, non_blocking=True)
        domains = batch.domains.to(self._device, non_blocking=True)
        values = _read(self._gradients.add(images, labels, domains), self.step + 1, self.config)
        faults.reach("mid_step")
        self._update_weights()
        self.step += 1
        if self._average is not None:
            self._average.update(self._weights())
        if isinstance(self._average, BetaMovingAverage):
            values["bma_weight"] = self._average.share
        return values | {"learning_rate": learning_rate}

    def _update_weights(self) -> None:
        if self.config.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()


def _training_set(
    split: Split, config: FinetuneConfig, inputs: Path, encoder: ImageEncoder, limits: ImageLimits, ranks: Ranks
) -> TrainingSet:
    classes = {name: label for label, name in enumerate(config.trained_classes)}
    samples = [split.samples[index] for index in split.train]
    labels = [classes[sample.class_name] for sample in samples]
    share = ranks.share(config.global_batch_size)
    return TrainingSet(inputs, samples, labels, config, encoder.preprocess, limits, share)


def _precision(config: FinetuneConfig, device: torch.device) -> str:
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return config.precision


def _every(given: int | None, config: FinetuneConfig, times_a_run: int) -> int:
    return given or max(1, math.ceil(config.num_steps / times_a_run))


def _read(values: Tensor, step: int, config: FinetuneConfig) -> dict[str, float]:
    """The numbers of a step, fetched from the device at once. Raises `TrainingDiverged`."""
    total, smoothing, layer_alignment, similarity_alignment, num_correct = values.tolist()
    if not math.isfinite(total):
        raise _diverged(step, "the loss", config)
    return {
        "loss": total,
        "smoothing_loss": smoothing,
        "layer_alignment_loss": layer_alignment,
        "similarity_alignment_loss": similarity_alignment,
        "accuracy": num_correct / config.global_batch_size,
    }


def _diverged(step: int, what: str, config: FinetuneConfig) -> TrainingDiverged:
    return TrainingDiverged(
        f"Not finite after step {step} of {config.num_steps}: {what}. A lower learning_rate "
        f"(now {config.learning_rate:g}), warmup_steps or a gradient_clip would do.",
        param="learning_rate",
    )

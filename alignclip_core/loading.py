"""Samples -> batches. Which images a step sees and how each is cropped depend on (seed, step, position) alone.

So a resumed run, and any number of loader processes, see the same pixels as an uninterrupted one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.layout import MASK_SUFFIX, Sample
from alignclip_core.errors import ImageRejected
from alignclip_core.images import ImageLimits, Preprocessing
from alignclip_core.pixels import decode_pixels, prepare_pixels, random_crop

NUM_AHEAD = 2  # batches that are ready or under way while the trainer works on another
ORDER, AUGMENTATION = 0, 1  # streams of random numbers
_PARAMS = {"dataset": "training_file", "validation": "validation_file"}  # fields of a request, by `Sample.source`

Value = TypeVar("Value")


class Batch(NamedTuple):
    """Images as the tower takes them, but for `normalise`, and their labels."""

    images: UInt8[Tensor, "batch 3 size size"]
    labels: Int[Tensor, " batch"]  # index into the trained classes
    domains: Int[Tensor, " batch"]  # index into the domains that train, sorted


class SampleOrder:
    """Which samples each step trains on.

    Every domain is gone through in a new random order each time round. With `balance_domains` a batch holds the
    domains evenly, and the images that are over rotate among them by step.
    """

    def __init__(self, domains: Sequence[str], config: FinetuneConfig) -> None:
        """`domains`: of each training sample, in order."""
        self._seed = config.seed
        self._batch_size = config.global_batch_size
        groups = domains if config.balance_domains else [""] * len(domains)
        self._members = [np.flatnonzero(np.asarray(groups) == name) for name in sorted(set(groups))]
        self._permutation = lru_cache(maxsize=2 * len(self._members) + 2)(self._permute)

    def positions(self, step: int) -> list[int]:
        """Indices into the training samples, for steps 1, 2, ..."""
        each, over = divmod(self._batch_size, len(self._members))
        chosen: list[int] = []
        for group in range(len(self._members)):
            before, until = (each * s + self._num_extra(group, over * s) for s in (step - 1, step))
            chosen += [self._nth(group, n) for n in range(before, until)]
        return chosen

    def _num_extra(self, group: int, num_dealt: int) -> int:
        """How many of the images that are over went to a group, when they are dealt round like cards."""
        return (num_dealt - group + len(self._members) - 1) // len(self._members)

    def _nth(self, group: int, n: int) -> int:
        epoch, place = divmod(n, len(self._members[group]))
        return int(self._members[group][self._permutation(group, epoch)[place]])

    def _permute(self, group: int, epoch: int) -> np.ndarray:
        return _random(self._seed, ORDER, group, epoch).permutation(len(self._members[group]))


@dataclass(frozen=True)
class TrainingSet:
    """The batch of each step: `training_set[step]` for steps 1, 2, ..."""

    root: Path  # RUN_DIR/inputs
    samples: Sequence[Sample]  # the training samples
    labels: Sequence[int]  # of each sample
    config: FinetuneConfig
    preprocessing: Preprocessing
    limits: ImageLimits
    share: range | None = None  # the positions of each batch that are this process's; None: all

    @cached_property
    def order(self) -> SampleOrder:
        return SampleOrder([sample.domain for sample in self.samples], self.config)

    @cached_property
    def domains(self) -> list[str]:
        """Those that train, in the order in which a batch counts them."""
        return sorted({sample.domain for sample in self.samples})

    def __getitem__(self, step: int) -> Batch:
        """Raises `ImageRejected`, naming the file."""
        chosen = self.order.positions(step)
        places = range(len(chosen)) if self.share is None else self.share
        images = [self._crop(self.samples[chosen[position]], step, position) for position in places]
        labels = [self.labels[chosen[position]] for position in places]
        domains = [self.domains.index(self.samples[chosen[position]].domain) for position in places]
        return Batch(torch.stack(images), torch.tensor(labels), torch.tensor(domains))

    def _crop(self, sample: Sample, step: int, position: int) -> UInt8[Tensor, "3 size size"]:
        random = _random(self.config.seed, AUGMENTATION, step, position)
        return random_crop(
            load_sample(self.root, sample, self.limits, decode_pixels),
            self.preprocessing.image_size,
            scale=self.config.crop_scale,
            horizontal_flip=self.config.horizontal_flip,
            interpolation=InterpolationMode(self.config.interpolation),
            random=random,
        )


def iterate_training(
    training_set: TrainingSet, first_step: int, last_step: int, *, num_threads: int = 1, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches of these steps in order, each made while the trainer works on an earlier one.

    `num_loader_workers` processes make them, or else `num_threads` threads.
    """
    steps = range(first_step, last_step + 1)
    num_workers = training_set.config.num_loader_workers
    if num_workers == 0:
        for batch in prefetch(training_set.__getitem__, steps, num_threads, NUM_AHEAD + num_threads - 1):
            yield _pinned(batch) if pin_memory else batch
        return
    batches: DataLoader[Batch | ImageRejected] = DataLoader(
        _ErrorsAsValues(training_set),  # type: ignore[arg-type]
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        prefetch_factor=NUM_AHEAD,
    )
    for batch in batches:
        if isinstance(batch, ImageRejected):
            raise batch
        yield _pinned(batch) if pin_memory else batch


def iterate_evaluation(
    root: Path,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    limits: ImageLimits,
    batch_size: int,
    num_threads: int = 1,
) -> Iterator[UInt8[Tensor, "batch 3 size size"]]:
    """The samples' images in order, prepared as the model's own preprocessing has it. Raises `ImageRejected`."""

    def load(sample: Sample) -> Tensor:
        return prepare_pixels(load_sample(root, sample, limits, decode_pixels), preprocessing)

    images = prefetch(load, samples, num_threads, NUM_AHEAD * batch_size)
    while batch := list(islice(images, batch_size)):
        yield torch.stack(batch)


def load_sample(
    root: Path, sample: Sample, limits: ImageLimits, decode: Callable[[bytes, ImageLimits], Value]
) -> Value:
    """What `decode` makes of a sample's bytes below `root`. Raises `ImageRejected`, naming the file."""
    try:
        return decode(read_sample(root / sample.source, sample, limits), limits)
    except ImageRejected as error:
        param = _PARAMS.get(sample.source, "test_datasets")
        raise ImageRejected(f"{sample.path}: {error.message}", param=param) from error


def load_masks(
    root: Path, samples: Sequence[Sample], preprocessing: Preprocessing, limits: ImageLimits
) -> Float[Tensor, "samples size size"] | None:
    """Where the object is, 0 to 1, in each image as the tower sees it; NaN where a sample has no mask.

    None: no sample has one. A mask is a picture beside its image, `1.mask.png` beside `1.jpg`. Raises `ImageRejected`.
    """
    size = preprocessing.image_size
    masks = torch.full((len(samples), size, size), torch.nan)
    for row, sample in enumerate(samples):
        name = PurePosixPath(sample.path).with_suffix(MASK_SUFFIX).as_posix()
        if sample.place is None and (root / sample.source / name).is_file():
            mask = load_sample(root, replace(sample, path=name), limits, decode_pixels)
            masks[row] = prepare_pixels(mask, preprocessing).float().mean(dim=0) / 255
    return None if masks.isnan().all() else masks


def prefetch(
    make: Callable[..., Value], keys: Sequence[int] | Sequence[Sample], num_threads: int, num_ahead: int
) -> Iterator[Value]:
    """`make(key)` for each key in order, made ahead in threads. Its exceptions are raised at their place."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="loader") as threads:
        pending: deque[Future[Value]] = deque()
        try:
            for key in keys:
                pending.append(threads.submit(make, key))
                if len(pending) > num_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class _ErrorsAsValues:
    """A DataLoader would wrap an exception's message in its own words; as a value it arrives as it was raised."""

    def __init__(self, training_set: TrainingSet) -> None:
        self.training_set = training_set

    def __getitem__(self, step: int) -> Batch | ImageRejected:
        try:
            return self.training_set[step]
        except ImageRejected as error:
            return error


def _random(seed: int, stream: int, *counters: int) -> np.random.Generator:
    """Random numbers that depend on these numbers alone: Philox is a function of key and counter."""
    first, second = counters
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, first, second]))


def _pinned(batch: Batch) -> Batch:
    return Batch(*(values.pin_memory() for values in batch))

"""Images of concurrent requests share forward passes, model by model, on the one thread that computes.

A batch starts when it is full, when no request for its model is still being decoded, or when the oldest image in it has
waited long enough: so an only client waits for nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STOPPED = "The service stops."

Compute = Callable[[Tensor], Tensor]  # pixels [images, 3, size, size] -> features [images, dim]


class Waiting(NamedTuple):
    """Images of one request until their features are there."""

    images: Sequence[Tensor]
    since: float
    features: Future[Tensor]


@dataclass
class Line:
    """What waits for one model."""

    compute: Compute
    waiting: deque[Waiting] = field(default_factory=deque)
    num_arriving: int = 0  # requests whose images are being decoded


class Batcher:
    """The thread that computes, and one line for each model in use."""

    def __init__(
        self,
        *,
        max_images: int,
        max_wait_seconds: float,
        observe: Callable[[int, Sequence[float]], None] = lambda num_images, waited_seconds: None,
    ) -> None:
        """`observe` is told of each batch how many images it has and how long each request in it had waited."""
        self._max_images = max_images
        self._max_wait_seconds = max_wait_seconds
        self._observe = observe
        self._lines: dict[Hashable, Line] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @contextmanager
    def arriving(self, key: Hashable, compute: Compute) -> Iterator[Callable[[Sequence[Tensor]], Future[Tensor]]]:
        """Images of a request are decoded in this block, and others wait for them a moment; what it gives submits them.

        Requests of one key share batches, at most `max_images` each.
        """
        with self._changed:
            line = self._lines.setdefault(key, Line(compute))
            line.num_arriving += 1
        try:
            yield lambda images: self._submit(line, images)
        finally:
            with self._changed:
                line.num_arriving -= 1
                self._forget_idle(key)
                self._changed.notify()

    def close(self) -> None:
        """End the thread; who still waits gets an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()
        for line in self._lines.values():
            while line.waiting:
                one = line.waiting.popleft()
                if one.features.set_running_or_notify_cancel():
                    one.features.set_exception(RuntimeError(STOPPED))

    def _submit(self, line: Line, images: Sequence[Tensor]) -> Future[Tensor]:
        future: Future[Tensor] = Future()
        with self._changed:
            if self._is_closed:  # nobody would compute them, and the request's thread would wait for ever
                raise RuntimeError(STOPPED)
            line.waiting.append(Waiting(images, time.monotonic(), future))
            self._changed.notify()
        return future

    def _work(self) -> None:
        while (taken := self._next_batch()) is not None:
            compute, batch = taken
            if batch:
                now = time.monotonic()
                self._observe(sum(len(one.images) for one in batch), [now - one.since for one in batch])
                _answer(compute, batch)
            del batch, taken  # the images, while the thread waits

    def _next_batch(self) -> tuple[Compute, list[Waiting]] | None:
        with self._changed:
            while not self._is_closed:
                if (key := self._next_key()) is not None:
                    line = self._lines[key]
                    batch = self._take(line)
                    self._forget_idle(key)
                    return line.compute, batch
                self._changed.wait(self._seconds_to_wait())
        return None

    def _next_key(self) -> Hashable | None:
        """Of the lines that are ready the one whose first image has waited longest."""
        now = time.monotonic()
        ready = [(line.waiting[0].since, key) for key, line in self._lines.items() if self._is_ready(line, now)]
        return min(ready, key=lambda each: each[0])[1] if ready else None

    def _is_ready(self, line: Line, now: float) -> bool:
        if not line.waiting:
            return False
        is_full = sum(len(one.images) for one in line.waiting) >= self._max_images
        return is_full or line.num_arriving == 0 or now - line.waiting[0].since >= self._max_wait_seconds

    def _seconds_to_wait(self) -> float | None:
        firsts = [line.waiting[0].since for line in self._lines.values() if line.waiting]
        return max(min(firsts) + self._max_wait_seconds - time.monotonic(), 0) if firsts else None

    def _take(self, line: Line) -> list[Waiting]:
        """The first of the line that fit into one batch, without those whose clients gave up."""
        batch: list[Waiting] = []
        num_images = 0
        while line.waiting and (not batch or num_images + len(line.waiting[0].images) <= self._max_images):
            one = line.waiting.popleft()
            if one.features.set_running_or_notify_cancel():
                batch.append(one)
                num_images += len(one.images)
        return batch

    def _forget_idle(self, key: Hashable) -> None:
        line = self._lines.get(key)
        if line is not None and not line.waiting and line.num_arriving == 0:
            del self._lines[key]


def _answer(compute: Compute, batch: Sequence[Waiting]) -> None:
    """Compute the batch at once; where that fails, each request alone, so that none suffers for another's images."""
    try:
        features = compute(_stack([image for one in batch for image in one.images]))
    except Exception as error:
        if len(batch) == 1:
            batch[0].features.set_exception(error)
        else:
            for one in batch:
                _answer(compute, [one])
        return
    for one, part in zip(batch, features.split([len(one.images) for one in batch]), strict=True):
        one.features.set_result(part)


def _stack(images: Sequence[Tensor]) -> Tensor:
    """One tensor of all; by numpy, since torch's threads spin on after such a copy and keep the cores from others."""
    return torch.from_numpy(np.stack([image.numpy() for image in images]))

"""The model that is kept is an average over training: the beta moving average (BMA), or SWAD's over a loss valley.

Both take in the parameters after every step (`update`), give the average as it stands (`parameters`: fp32; buffers are
the live model's) and go on bit for bit from a `state_dict`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta

from alignclip_core.config import FinetuneConfig


def make_average(parameters: Mapping[str, Tensor], config: FinetuneConfig) -> BetaMovingAverage | ValleyAverage | None:
    """The average that the config names, beginning at these parameters; None for none."""
    if config.averaging == "bma":
        return BetaMovingAverage(parameters, config.num_steps, config.bma_beta)
    if config.averaging == "swad":
        return ValleyAverage(
            parameters,
            num_converge=config.swad_converge,
            num_tolerance=config.swad_tolerance,
            tolerance_ratio=config.swad_ratio,
        )
    return None


def max_copies(config: FinetuneConfig) -> int:
    """How many copies of the weights that training changes the average holds at most."""
    if config.averaging == "swad":  # the running segment, those that wait, and the valley
        return max(config.swad_converge, config.swad_tolerance) + 2
    return 0 if config.averaging == "none" else 1


def bma_weights(num_steps: int, beta: float) -> Float[Tensor, " num_steps_plus_one"]:
    """Weight α of the parameters after each step 0..num_steps: density of Beta(beta, beta).

    Step t of T sits at (t + 0.5) / (T + 1), so beta < 1 stays finite at both ends.
    """
    grid = (torch.arange(num_steps + 1, dtype=torch.float64) + 0.5) / (num_steps + 1)
    shape = torch.tensor(beta, dtype=torch.float64)
    weights: Tensor = Beta(shape, shape).log_prob(grid).exp()
    return weights


class BetaMovingAverage:
    """m_t = Σ_{k≤t} α_k θ_k / Σ_{k≤t} α_k, the weighted average of parameters θ over steps 0..t, in fp32.

    Step 0 is the pre-trained model. `num_steps` (T) is fixed: every weight depends on it.
    """

    def __init__(self, parameters: Mapping[str, Tensor], num_steps: int, beta: float) -> None:
        self.num_steps = num_steps
        self.beta = beta
        self.step = 0
        self._weights: list[float] = bma_weights(num_steps, beta).tolist()
        self._weight_sum = self._weights[0]
        self.parameters = _copies(parameters)

    @property
    def share(self) -> float:
        """What part of the average is the newest step: α_t / Σ_{k≤t} α_k."""
        return self._weights[self.step] / self._weight_sum

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Take in the parameters after one more optimizer step.

        m <- (m + r θ) / (1 + r) with r = α_t / Σ_{k<t} α_k, which is a step from m towards θ by `share`.
        """
        if self.step == self.num_steps:
            raise ValueError(f"The average is complete: it was made for {self.num_steps} steps.")
        self.step += 1
        self._weight_sum += self._weights[self.step]
        _move_towards(self.parameters, parameters, self.share)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit; plain values and tensors."""
        return {
            "num_steps": self.num_steps,
            "beta": self.beta,
            "step": self.step,
            "weight_sum": self._weight_sum,
            "parameters": dict(self.parameters),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises `ValueError` when T, β or the parameters are not those of the state."""
        _check_same(state, {"num_steps": self.num_steps, "beta": self.beta})
        _check_same_parameters(state["parameters"], self.parameters)
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        self.step = state["step"]
        self._weight_sum = state["weight_sum"]


class ValleyAverage:
    """SWAD: the mean of all steps from where the validation loss converged to where its valley ends, in fp32.

    Training is cut into segments, each ended by an evaluation (`end_segment`); a segment's parameters are the mean of
    its steps. The valley begins with the best of `num_converge` evaluations, as soon as the first of them is the best.
    It ends when `num_tolerance` evaluations in a row lie above (1 + `tolerance_ratio`) x the mean of those
    `num_converge`. What comes later is not taken in (Cha et al. 2021, algorithm 1; their code stops training there).
    Up to `num_tolerance` + 2 copies of the parameters are kept.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        num_converge: int = 3,
        num_tolerance: int = 6,
        tolerance_ratio: float = 0.3,
    ) -> None:
        self._settings = {
            "num_converge": num_converge, "num_tolerance": num_tolerance, "tolerance_ratio": tolerance_ratio,
        }  # fmt: skip
        self._num_converge, self._num_tolerance, self._ratio = num_converge, num_tolerance, tolerance_ratio
        self._running = _Segment(_copies(parameters))
        self._waiting: deque[_Segment] = deque()  # the newest, not taken in yet
        self._valley: _Segment | None = None
        self._threshold = float("inf")
        self.is_complete = False  # the valley has ended

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The mean over the valley; before it begins, over the newest segment."""
        if self._valley is None:
            return (self._waiting[-1] if self._waiting else self._running).parameters
        mean = self._valley
        if not self.is_complete:
            losses = [segment.loss for segment in self._waiting]
            inside = [segment for at, segment in enumerate(self._waiting) if min(losses[at:]) <= self._threshold]
            mean = mean.joined(inside)
        return mean.parameters

    @property
    def num_steps_averaged(self) -> int:
        """Steps in the valley so far that can no longer be left out."""
        return 0 if self._valley is None else self._valley.num_steps

    @property
    def has_open_segment(self) -> bool:
        """Whether steps were taken since the last evaluation."""
        return self._running.num_steps > 0

    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Take in the parameters after one more optimizer step."""
        if not self.is_complete:
            self._running.add(parameters)

    def end_segment(self, validation_loss: float) -> None:
        """The validation loss of the parameters as they are now: here a segment ends."""
        if self.is_complete or not self.has_open_segment:
            return
        self._running.loss = validation_loss
        self._waiting.append(self._running)
        self._running = _Segment(_copies(self._running.parameters))
        if self._valley is None:
            self._begin_valley()
        elif len(self._waiting) >= self._num_tolerance:
            self._go_on()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit; plain values and tensors."""
        return {
            **self._settings,
            "running": self._running.to_state(),
            "waiting": [segment.to_state() for segment in self._waiting],
            "valley": None if self._valley is None else self._valley.to_state(),
            "threshold": self._threshold,
            "is_complete": self.is_complete,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises `ValueError` when the settings or the parameters are not those of the state."""
        _check_same(state, self._settings)
        _check_same_parameters(state["running"]["parameters"], self._running.parameters)
        own = self._running.parameters
        self._waiting = deque(_Segment.from_state(segment, own) for segment in state["waiting"])
        self._valley = None if state["valley"] is None else _Segment.from_state(state["valley"], own)
        self._running = _Segment.from_state(state["running"], own)
        self._threshold = state["threshold"]
        self.is_complete = state["is_complete"]

    def _begin_valley(self) -> None:
        """Once the oldest of `num_converge` evaluations is the best of them."""
        if len(self._waiting) < self._num_converge:
            return
        losses = [segment.loss for segment in self._waiting]
        if losses[0] > min(losses):
            self._waiting.popleft()
            return
        self._threshold = (1 + self._ratio) * sum(losses) / len(losses)
        self._valley = self._waiting.popleft().joined([])
        while len(self._waiting) >= self._num_tolerance:  # only where fewer are waited for than converged
            self._valley = self._valley.joined([self._waiting.popleft()])

    def _go_on(self) -> None:
        """Take in the oldest segment, unless it and all after it lie above the threshold."""
        assert self._valley is not None
        if min(segment.loss for segment in self._waiting) > self._threshold:
            self.is_complete = True
            self._waiting.clear()
        else:
            self._valley = self._valley.joined([self._waiting.popleft()])


class _Segment:
    """The mean of the parameters over a number of steps; before the first, what they were."""

    def __init__(self, parameters: dict[str, Tensor], num_steps: int = 0, loss: float = float("inf")) -> None:
        self.parameters = parameters
        self.num_steps = num_steps
        self.loss = loss  # at its end

    def add(self, parameters: Mapping[str, Tensor]) -> None:
        self.num_steps += 1
        _move_towards(self.parameters, parameters, 1 / self.num_steps)

    def joined(self, others: Sequence[_Segment]) -> _Segment:
        """The mean over the steps of all of them, in tensors of its own."""
        mean = _Segment(_copies(self.parameters), self.num_steps)
        for other in others:
            mean.num_steps += other.num_steps
            _move_towards(mean.parameters, other.parameters, other.num_steps / mean.num_steps)
        return mean

    def to_state(self) -> dict[str, Any]:
        return {"parameters": dict(self.parameters), "num_steps": self.num_steps, "loss": self.loss}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], like: Mapping[str, Tensor]) -> _Segment:
        parameters = {
            name: state["parameters"][name].to(value.device, torch.float32, copy=True) for name, value in like.items()
        }
        return cls(parameters, state["num_steps"], state["loss"])


def _copies(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to(torch.float32, copy=True).contiguous() for name, value in parameters.items()}


@torch.no_grad()
def _move_towards(mean: Mapping[str, Tensor], parameters: Mapping[str, Tensor], share: float) -> None:
    newest = [parameters[name].detach().float() for name in mean]
    torch._foreach_lerp_(list(mean.values()), newest, share)


def _check_same(state: Mapping[str, Any], settings: Mapping[str, int | float]) -> None:
    for name, own in settings.items():
        if state[name] != own:
            raise ValueError(f"The average was begun with {name}={state[name]}, not {own}; every weight depends on it.")


def _check_same_parameters(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if theirs.keys() != own.keys():
        differing = sorted(theirs.keys() ^ own.keys())
        raise ValueError(f"The average was begun over other parameters; differing: {', '.join(differing[:5])}.")

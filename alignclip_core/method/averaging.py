"""The beta moving average (BMA): the model that is kept is a weighted mean over all steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta


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

    Step 0 is the pre-trained model. `num_steps` (T) is fixed: every weight depends on it. Parameters only: buffers are
    the live model's.
    """

    def __init__(self, parameters: Mapping[str, Tensor], num_steps: int, beta: float) -> None:
        self.num_steps = num_steps
        self.beta = beta
        self.step = 0
        self._weights: list[float] = bma_weights(num_steps, beta).tolist()
        self._weight_sum = self._weights[0]
        self.parameters = {
            name: value.detach().to(torch.float32, copy=True).contiguous() for name, value in parameters.items()
        }

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
        newest = [parameters[name].detach().float() for name in self.parameters]
        torch._foreach_lerp_(list(self.parameters.values()), newest, self.share)

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
        for name, own in (("num_steps", self.num_steps), ("beta", self.beta)):
            if state[name] != own:
                raise ValueError(
                    f"The average was begun with {name}={state[name]}, not {own}; every weight depends on it."
                )
        if state["parameters"].keys() != self.parameters.keys():
            differing = sorted(state["parameters"].keys() ^ self.parameters.keys())
            raise ValueError(f"The average was begun over other parameters; differing: {', '.join(differing[:5])}.")
        for name, value in self.parameters.items():
            value.copy_(state["parameters"][name])
        self.step = state["step"]
        self._weight_sum = state["weight_sum"]

"""The beta moving average against scipy and against the weighted mean it stands for."""

from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from alignclip_core.config import FinetuneConfig
from alignclip_core.method.averaging import BetaMovingAverage, ValleyAverage, bma_weights, make_average


def walk(num_steps: int) -> list[dict[str, torch.Tensor]]:
    """Parameters after each step 0..num_steps of a random walk."""
    random = torch.Generator().manual_seed(5)
    state = {"weight": torch.randn(3, 2, generator=random), "bias": torch.randn(2, generator=random)}
    states = [state]
    for _ in range(num_steps):
        state = {name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in state.items()}
        states.append(state)
    return states


def weighted_mean(states: list[dict[str, torch.Tensor]], weights: list[float]) -> dict[str, torch.Tensor]:
    total = sum(weights)
    return {
        name: (
            sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True)) / total
        ).float()
        for name in states[0]
    }


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 2.5])
def test_bma_weights_match_scipy(beta):
    expected = [scipy.stats.beta(beta, beta).pdf((step + 0.5) / 11) for step in range(11)]
    assert_close(bma_weights(num_steps=10, beta=beta), torch.tensor(expected, dtype=torch.float64))


def test_bma_weights_are_symmetric_and_flat_for_beta_one():
    weights = bma_weights(num_steps=37, beta=0.5)
    assert_close(weights, weights.flip(0))
    assert_close(bma_weights(num_steps=4, beta=1.0), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("beta", "num_steps", "share"), [(0.5, 5000, 0.0064), (0.5, 500, 0.021), (0.1, 5000, 0.062), (0.1, 500, 0.092)]
)
def test_share_of_the_pretrained_model_is_the_published_one(beta, num_steps, share):
    weights = bma_weights(num_steps, beta)
    assert (weights[0] / weights.sum()).item() == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_average_equals_the_weighted_mean_of_all_steps(beta):
    states = walk(num_steps=40)
    average = BetaMovingAverage(states[0], num_steps=40, beta=beta)
    weights = bma_weights(40, beta).tolist()
    for step, state in enumerate(states[1:], start=1):
        average.update(state)
        expected = weighted_mean(states[: step + 1], weights[: step + 1])
        assert_close(average.parameters, expected, atol=1e-6, rtol=0)
        assert average.share == pytest.approx(weights[step] / sum(weights[: step + 1]))


def test_average_of_a_long_run_keeps_its_precision():
    states = walk(num_steps=2000)
    average = BetaMovingAverage(states[0], num_steps=2000, beta=0.5)
    for state in states[1:]:
        average.update(state)
    assert_close(average.parameters, weighted_mean(states, bma_weights(2000, 0.5).tolist()), atol=1e-6, rtol=1e-6)


def test_average_before_the_first_step_is_the_pretrained_model():
    state = walk(num_steps=0)[0]
    average = BetaMovingAverage(state, num_steps=0, beta=0.5)
    assert_close(average.parameters, state)
    assert average.share == 1


def test_average_is_kept_in_fp32_and_apart_from_the_live_parameters():
    live = {"weight": torch.ones(2, dtype=torch.bfloat16)}
    average = BetaMovingAverage(live, num_steps=1, beta=1.0)
    live["weight"] += 0.0078125  # the next bf16 after 1
    average.update(live)
    assert average.parameters["weight"].dtype == torch.float32
    assert_close(average.parameters["weight"], torch.full((2,), 1.00390625))


def test_average_that_is_saved_and_loaded_goes_on_bit_for_bit(tmp_path):
    states = walk(num_steps=20)
    straight, first = (BetaMovingAverage(states[0], num_steps=20, beta=0.5) for _ in range(2))
    for state in states[1:9]:
        straight.update(state)
        first.update(state)
    torch.save(first.state_dict(), tmp_path / "average.pt")
    resumed = BetaMovingAverage(states[8], num_steps=20, beta=0.5)
    resumed.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    for state in states[9:]:
        straight.update(state)
        resumed.update(state)
    assert all(torch.equal(straight.parameters[name], resumed.parameters[name]) for name in states[0])
    assert resumed.step == 20


@pytest.mark.parametrize(("num_steps", "beta", "fault"), [(21, 0.5, "num_steps=20"), (20, 0.1, "beta=0.5")])
def test_average_refuses_the_state_of_another_length_or_shape(num_steps, beta, fault):
    state = walk(num_steps=0)[0]
    saved = BetaMovingAverage(state, num_steps=20, beta=0.5).state_dict()
    with pytest.raises(ValueError, match=fault):
        BetaMovingAverage(state, num_steps=num_steps, beta=beta).load_state_dict(saved)


def test_average_refuses_other_parameters_and_a_step_too_many():
    state = walk(num_steps=0)[0]
    average = BetaMovingAverage(state, num_steps=1, beta=0.5)
    with pytest.raises(ValueError, match="bias"):
        BetaMovingAverage({"weight": state["weight"]}, num_steps=1, beta=0.5).load_state_dict(average.state_dict())
    average.update(state)
    with pytest.raises(ValueError, match="made for 1 steps"):
        average.update(state)


# SWAD


def swad_reference(states, losses, every, num_converge, num_tolerance, ratio):
    """Algorithm 1 of the paper with segments as its code has them: (first, last) evaluation of the mean, or None.

    `losses[i]` is that of the state after (i + 1) * every steps.
    """
    for now in range(len(losses)):
        first = now - num_converge + 1
        window = losses[max(first, 0) : now + 1]
        if first >= 0 and losses[first] == min(window):
            threshold = (1 + ratio) * sum(window) / num_converge
            break
    else:
        return None
    last = first
    for index in range(first + 1, len(losses)):
        patience = losses[index : index + num_tolerance]
        if min(patience) > threshold:
            break
        last = index
    return first, last


def swad_of(states, losses, every, **settings):
    average = ValleyAverage(states[0], **settings)
    for step, state in enumerate(states[1:], start=1):
        average.update(state)
        if step % every == 0:
            average.end_segment(losses[step // every - 1])
    return average


VALLEY = [3.0, 2.0, 1.0, 1.1, 1.2, 1.0, 1.3, 1.6, 1.2, 1.9, 2.0, 2.2, 2.1, 1.0, 0.9]
CURVES = {
    "one valley, dead at its end": VALLEY,
    "still in the valley": VALLEY[:8],
    "its last evaluations are above the threshold": VALLEY[:11],
    "better and better": [5.0, 4.0, 3.0, 2.0, 1.0],
    "never converged": [3.0, 2.5, 2.0, 1.5],
    "best at once": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("settings", [(3, 6, 0.3), (3, 3, 0.3), (2, 4, 0.1), (4, 2, 0.2)], ids=str)
def test_swad_is_the_mean_of_every_step_of_the_valley(curve, settings):
    losses, every = CURVES[curve], 3
    states = walk(num_steps=every * len(losses))
    num_converge, num_tolerance, ratio = settings
    found = swad_of(
        states, losses, every, num_converge=num_converge, num_tolerance=num_tolerance, tolerance_ratio=ratio
    )
    span = swad_reference(states, losses, every, *settings)
    first, last = span or (len(losses) - 1,) * 2  # not converged: the newest segment, as the code of SWAD
    steps = states[first * every + 1 : (last + 1) * every + 1]
    assert_close(found.parameters, weighted_mean(steps, [1.0] * len(steps)), atol=1e-6, rtol=0)


def test_the_configs_numbers_are_those_of_its_average():
    config = FinetuneConfig(
        base_model="tiny", class_names={"cat": "cat", "dog": "dog"}, num_steps=10, bma_beta=0.1,
        swad_converge=2, swad_tolerance=4, swad_ratio=0.1,
    )  # fmt: skip
    states, every = walk(num_steps=3 * len(VALLEY)), 3
    moving = make_average(states[0], config)
    for state in states[1:11]:
        moving.update(state)
    weights = [scipy.stats.beta(0.1, 0.1).pdf((step + 0.5) / 11) for step in range(11)]
    assert_close(moving.parameters, weighted_mean(states[:11], weights), atol=1e-6, rtol=0)

    valley = make_average(states[0], replace(config, averaging="swad"))
    for step, state in enumerate(states[1:], start=1):
        valley.update(state)
        if step % every == 0:
            valley.end_segment(VALLEY[step // every - 1])
    first, last = swad_reference(states, VALLEY, every, 2, 4, 0.1)
    steps = states[first * every + 1 : (last + 1) * every + 1]
    assert_close(valley.parameters, weighted_mean(steps, [1.0] * len(steps)), atol=1e-6, rtol=0)
    assert (first, last) != swad_reference(states, VALLEY, every, 3, 6, 0.3)  # of the defaults

    assert make_average(states[0], replace(config, averaging="none")) is None


def test_swad_takes_nothing_in_after_the_valley_has_ended():
    states = walk(num_steps=45)
    average = swad_of(states, VALLEY, 3, num_converge=3, num_tolerance=4, tolerance_ratio=0.3)
    assert average.is_complete
    assert average.num_steps_averaged == 3 * 7  # evaluations 2..8 of the curve
    before = {name: value.clone() for name, value in average.parameters.items()}
    average.update(states[0])
    average.end_segment(0.0)
    assert_close(average.parameters, before, atol=0, rtol=0)


def test_swad_before_its_first_evaluation_is_the_mean_of_the_steps_so_far():
    states = walk(num_steps=2)
    average = ValleyAverage(states[0])
    assert_close(average.parameters, states[0])
    average.end_segment(1.0)  # no step was taken: nothing ends
    for state in states[1:]:
        average.update(state)
    assert_close(average.parameters, weighted_mean(states[1:], [1.0, 1.0]))


@pytest.mark.parametrize("stop", [1, 4, 10, 24, 40])
def test_swad_that_is_saved_and_loaded_goes_on_bit_for_bit(tmp_path, stop):
    states = walk(num_steps=45)
    straight, first, resumed = (ValleyAverage(states[0]) for _ in range(3))
    for step, state in enumerate(states[1:], start=1):
        running = first if step <= stop else resumed
        for average in (straight, running):
            average.update(state)
            if step % 3 == 0:
                average.end_segment(VALLEY[step // 3 - 1])
        if step == stop:
            torch.save(first.state_dict(), tmp_path / "average.pt")
            resumed.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    assert_close(resumed.parameters, straight.parameters, atol=0, rtol=0)
    assert resumed.num_steps_averaged == straight.num_steps_averaged


def test_swad_refuses_the_state_of_other_settings_and_parameters():
    state = walk(num_steps=0)[0]
    saved = ValleyAverage(state, num_converge=4).state_dict()
    with pytest.raises(ValueError, match="num_converge=4, not 3"):
        ValleyAverage(state).load_state_dict(saved)
    with pytest.raises(ValueError, match="bias"):
        ValleyAverage({"weight": state["weight"]}, num_converge=4).load_state_dict(saved)

"""Every runtime against torch in fp32, on the starter, the one trained model at hand, and pictures of two styles."""

import ctypes
import logging
from dataclasses import dataclass

import pytest
import torch

from alignclip_core.base_models import STARTER_FOLDER, read_card
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.finished_model import load_base_model
from alignclip_core.images import decode_image
from alignclip_core.pixels import prepare_image
from alignclip_core.prompts import embed_classes
from alignclip_core.runtimes import choosing
from alignclip_core.runtimes.choosing import RuntimeChoice, make_tower
from alignclip_core.runtimes.openvino_tower import OpenVinoTower
from alignclip_core.runtimes.parity import min_cosine
from alignclip_core.runtimes.torch_tower import TorchTower
from tools.demo.classes import CLASSES
from tools.demo.pictures import draw_openmoji, noto_drawer

NAMES = ("cat", "bird", "flower", "fruit", "car", "shoe", "boat", "clock")


@dataclass(frozen=True)
class Parity:
    """Two runs over the same images and classes."""

    top1_agreement: float
    max_probability_difference: float
    min_cosine: float


def measure_parity(
    reference: torch.Tensor, features: torch.Tensor, class_embeddings: torch.Tensor, logit_scale: float
) -> Parity:
    """Compare features of unit length by what they say of the classes."""
    expected, found = (torch.softmax(logit_scale * each @ class_embeddings.T, dim=1) for each in (reference, features))
    return Parity(
        top1_agreement=(expected.argmax(dim=1) == found.argmax(dim=1)).float().mean().item(),
        max_probability_difference=(expected - found).abs().max().item(),
        min_cosine=min_cosine(reference, features),
    )


@pytest.fixture(scope="module")
def starter():
    return load_base_model(read_card(STARTER_FOLDER, "starter"))


@pytest.fixture(scope="module")
def images(starter):
    """Pixels of pictures in both styles: two emoji of each class."""
    draw_noto = noto_drawer()
    drawn = [draw(emoji) for name in NAMES for emoji in CLASSES[name][:2] for draw in (draw_openmoji, draw_noto)]
    pixels = [prepare_image(decode_image(content), starter.preprocessing) for content in drawn]
    return torch.stack(pixels)


@pytest.fixture(scope="module")
def reference(starter, images):
    return TorchTower(starter.image_encoder)(images)


@pytest.fixture(scope="module")
def text(starter):
    return embed_classes(build_text_encoder(starter.base_model), NAMES, starter.templates)


@pytest.mark.parametrize(
    ("build", "precision", "agreement", "difference"),
    [
        (OpenVinoTower, "fp32", 1.0, 1e-4),
        (OpenVinoTower, "bf16", 0.9, 0.15),  # the starter's convolutions lose in bf16: `auto` does not take it there
        (TorchTower, "bf16", 0.9, 0.15),
    ],
)
def test_runtime_answers_as_torch_in_fp32_does(
    starter, images, reference, text, build, precision, agreement, difference
):
    features = build(starter.image_encoder, precision)(images)
    parity = measure_parity(reference, features, text, starter.logit_scale)
    assert parity.top1_agreement >= agreement, parity
    assert parity.max_probability_difference <= difference, parity


def test_automatic_choice_gives_the_same_answers(starter, images, reference, text):
    tower = make_tower(starter.image_encoder, RuntimeChoice(device="cpu"), name="starter")
    assert (tower.runtime, tower.precision) == ("openvino", "fp32")
    parity = measure_parity(reference, tower(images), text, starter.logit_scale)
    assert (parity.top1_agreement, parity.max_probability_difference < 1e-4) == (1, True), parity


def test_runtime_of_other_features_is_not_taken_and_that_is_logged(starter, caplog):
    choice = RuntimeChoice(runtime="openvino", precision="bf16", device="cpu")
    with caplog.at_level(logging.WARNING):
        tower = make_tower(starter.image_encoder, choice, name="starter")
    assert (tower.runtime, tower.precision) == ("torch", "fp32")
    assert "openvino in bf16 gives other features of 'starter'" in caplog.text


def test_runtime_that_cannot_load_leaves_the_work_to_torch(starter, caplog, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(choosing, "OpenVinoTower", fail)
    tower = make_tower(starter.image_encoder, RuntimeChoice(device="cpu"), name="starter")
    assert (tower.runtime, tower.precision) == ("torch", "fp32")
    assert "no such instruction" in caplog.text


class SignalStack(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("num_bytes", ctypes.c_size_t))


def signal_stack() -> tuple:
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.start, found.flags, found.num_bytes


def test_openvino_leaves_the_signal_stack_of_the_thread_that_asks(tiny_base_model):
    before = signal_stack()
    tower = OpenVinoTower(build_image_encoder(tiny_base_model))
    tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert signal_stack() == before

"""Each algorithm's loss is the textbook one that its name promises, in every preset."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from alignclip_core.algorithms import make_algorithm
from alignclip_core.base_models import BaseModel
from alignclip_core.config import PRESETS, make_config
from alignclip_core.encoder import ImageEncoder, build_image_encoder
from alignclip_core.run_dir import ClassSimilarity

CLASS_NAMES = {name: name for name in ("cat", "dog", "fox", "owl")}
LABELS = torch.tensor([1, 0, 2])  # among the trained classes, which leave out the fox: 2 is the owl
TRAINED = [0, 1, 3]


@pytest.fixture
def encoder(tiny_base_model: BaseModel) -> ImageEncoder:
    return build_image_encoder(tiny_base_model)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(13))


@pytest.fixture
def similarity() -> ClassSimilarity:
    embeddings = normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(14)), dim=-1)
    return ClassSimilarity(
        class_names=tuple(CLASS_NAMES.values()),
        templates=("{}",),
        text_model="random",
        class_embeddings=embeddings.numpy(),
        cosine=np.asarray(embeddings @ embeddings.T),
    )


def textbook_loss(algorithm: str, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    scale = 20.0  # of the tiny model
    if algorithm == "clipood":
        return cross_entropy(scale * (features - 0.3 * texts[LABELS]) @ texts.T, LABELS)
    return cross_entropy(
        scale * features @ texts.T, LABELS, label_smoothing=0.1 if algorithm == "label_smoothing" else 0.0
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("algorithm", ["finetune", "clipood", "label_smoothing"])
def test_baseline_trains_by_its_textbook_loss_on_the_trained_classes(encoder, images, similarity, algorithm, preset):
    config = make_config(
        BaseModel(id="tiny"),
        class_names=CLASS_NAMES,
        algorithm=algorithm,
        preset=preset,
        given={"unseen_classes": ("fox",)},
    )
    losses = make_algorithm(encoder, similarity, config)(images, LABELS).losses
    texts = torch.from_numpy(similarity.class_embeddings)[TRAINED]
    assert_close(losses.total, textbook_loss(algorithm, encoder(images), texts), atol=1e-4, rtol=1e-5)
    assert losses.layer_alignment.item() == losses.similarity_alignment.item() == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_alignclip_adds_its_three_terms_with_their_weights(encoder, images, similarity, preset):
    config = make_config(BaseModel(id="tiny"), class_names=CLASS_NAMES, preset=preset)
    losses = make_algorithm(encoder, similarity, config)(images, LABELS).losses
    weight = {"paper": 1, "authors_code": 10, "robust": 0}[preset]
    expected = losses.smoothing + weight * (losses.layer_alignment + losses.similarity_alignment)
    assert_close(losses.total, expected)
    assert (losses.layer_alignment.item() > 0) == (losses.similarity_alignment.item() > 0) == (weight > 0)


def test_the_tower_is_held_by_its_distance_from_where_it_began(encoder, images, similarity):
    config = make_config(
        BaseModel(id="tiny"), class_names=CLASS_NAMES, preset="robust", given={"frozen_distance_weight": 3.0}
    )
    algorithm = make_algorithm(encoder, similarity, config)
    labels, began = torch.tensor([1, 0, 3]), encoder(images).detach()
    noise = torch.randn(encoder.visual.proj.shape, generator=torch.Generator().manual_seed(15))
    with torch.no_grad():
        encoder.visual.proj += 0.1 * noise
    losses = algorithm(images, labels).losses
    distance = (1 - (encoder(images) * began).sum(1)).mean()
    assert distance.item() > 1e-3
    assert_close(losses.total, losses.smoothing + 3 * distance, atol=1e-5, rtol=1e-4)
    losses.total.backward()
    assert all(value.grad is None and not value.requires_grad for value in algorithm.frozen.parameters())


def test_a_calibrated_scale_leaves_the_trained_classes_their_share(encoder, similarity):
    given = {"unseen_classes": ("fox",), "similarity_scale": "calibrated"}
    config = make_config(BaseModel(id="tiny"), class_names=CLASS_NAMES, given=given)
    own_shares = make_algorithm(encoder, similarity, config).similarity.diagonal()
    assert len(own_shares) == 3
    assert own_shares.mean().item() == pytest.approx(0.6, abs=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"smoothing": 0.3, "similarity_scale": 35.0},
        {"smoothing": 0.3, "similarity_scale": 35.0, "keep_diagonal": False},
        {"smoothing": 0.3, "smoothing_target": "uniform"},
        {"smoothing": 0.0},
    ],
    ids=str,
)
def test_the_smoothed_target_is_made_by_the_configs_numbers(encoder, images, similarity, fields):
    config = make_config(BaseModel(id="tiny"), class_names=CLASS_NAMES, given={"unseen_classes": ("fox",)} | fields)
    found = make_algorithm(encoder, similarity, config)(images, LABELS).losses.smoothing
    texts = torch.from_numpy(similarity.class_embeddings)[TRAINED].double()
    onehot = torch.eye(3, dtype=torch.float64)[LABELS]
    rows = (fields.get("similarity_scale", 1.0) * texts @ texts.T).softmax(dim=1)[LABELS]
    if "smoothing_target" in fields:
        rows = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    smoothing = fields.get("smoothing", 0.1)
    targets = (1 - smoothing) * onehot + smoothing * rows
    if fields.get("keep_diagonal") is False:
        targets = (1 - smoothing) * onehot + (1 - onehot) * rows
    log_probabilities = (20.0 * encoder(images).double() @ texts.T).log_softmax(dim=1)
    assert_close(found.double(), -(targets * log_probabilities).sum(dim=1).mean(), atol=1e-4, rtol=1e-5)

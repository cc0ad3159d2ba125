import pytest
import torch
from PIL import Image

from alignclip_core.checkpoint import make_manifest, read_manifest, save_model
from alignclip_core.classifier import BATCH_SIZE, Classifier, check_labels, predictions
from alignclip_core.config import make_config
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.errors import ArtifactCorrupt, LabelsInvalid
from alignclip_core.images import Preprocessing
from alignclip_core.prompts import class_similarity_of, embed_classes

LABELS = ("circle", "cross", "square", "triangle")


@pytest.fixture(scope="module")
def class_embeddings(tiny_base_model):
    return embed_classes(build_text_encoder(tiny_base_model), LABELS, ("a photo of a {}.",))


@pytest.fixture
def pictures(tmp_path, draw_dataset):
    draw_dataset(tmp_path / "pictures", num_images=2)
    return [Image.open(path).convert("RGB") for path in sorted((tmp_path / "pictures").rglob("*.png"))]


@pytest.fixture
def save_tuned(tmp_path, tiny_base_model):
    """save_tuned(**changes): a folder with changed weights of the tiny model; `changes` go into its manifest."""

    def save(**changes):
        encoder = build_image_encoder(tiny_base_model)
        with torch.no_grad():
            encoder.visual.proj.add_(torch.randn(encoder.visual.proj.shape, generator=torch.Generator().manual_seed(1)))
        config = make_config(tiny_base_model, class_names={name: name for name in LABELS})
        similarity = class_similarity_of(build_text_encoder(tiny_base_model), LABELS, config.templates)
        manifest = make_manifest(
            config, tiny_base_model, similarity, preprocessing=encoder.preprocess, logit_scale=7.0, step=1
        )
        save_model(tmp_path / "tuned", encoder.state_dict(), manifest | changes)
        return tmp_path / "tuned"

    return save


def test_the_base_model_classifies_by_the_softmax_of_scaled_cosines(tiny_base_model, class_embeddings, pictures):
    classifier = Classifier.from_base(tiny_base_model)
    probabilities = classifier.classify(pictures, class_embeddings)
    features = classifier.image_features(pictures)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(8))
    scaled = torch.exp(20.0 * features @ class_embeddings.T)
    torch.testing.assert_close(probabilities, scaled / scaled.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_any_labels_can_be_asked_for(tiny_base_model, pictures):
    classifier = Classifier.from_base(tiny_base_model)
    other = embed_classes(build_text_encoder(tiny_base_model), ("zebra", "ladder"), ("{}",))
    assert classifier.classify(pictures, other).shape == (8, 2)


def test_an_image_has_the_same_features_alone_and_among_many(tiny_base_model, pictures):
    classifier = Classifier.from_base(tiny_base_model)
    many = (pictures * 9)[: 2 * BATCH_SIZE + 3]
    features = classifier.image_features(many)
    assert len(features) == len(many)
    torch.testing.assert_close(features[-1:], classifier.image_features(many[-1:]), rtol=0, atol=1e-5)


def test_a_tuned_model_uses_its_own_weights_scale_and_preprocessing(
    tiny_base_model, class_embeddings, pictures, save_tuned
):
    preprocessing = {
        "image_size": 32,
        "mean": [0.1] * 3,
        "std": [0.9] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    tuned = Classifier.load(save_tuned(preprocessing=preprocessing), tiny_base_model)
    assert tuned.logit_scale == 7.0
    assert tuned.preprocessing == Preprocessing(
        image_size=32, mean=(0.1,) * 3, std=(0.9,) * 3, interpolation="bicubic", resize_mode="squash"
    )
    base = Classifier.from_base(tiny_base_model)
    assert not torch.allclose(tuned.image_features(pictures), base.image_features(pictures), atol=1e-2)
    assert tuned.num_bytes == base.num_bytes > 100_000


def test_a_model_is_served_with_the_pooling_that_it_was_trained_with(tiny_base_model, pictures, save_tuned):
    kept = save_tuned()
    as_the_base_does = Classifier.load(kept, tiny_base_model).image_features(pictures)
    config = read_manifest(kept)["config"]
    tuned = Classifier.load(save_tuned(config=config | {"pooling": "average"}), tiny_base_model)
    assert not torch.allclose(tuned.image_features(pictures), as_the_base_does, atol=1e-2)
    old = {name: value for name, value in config.items() if name != "pooling"}  # of before there was a choice
    found = Classifier.load(save_tuned(config=old), tiny_base_model).image_features(pictures)
    assert torch.equal(found, as_the_base_does)


def test_a_model_of_another_base_is_refused(tiny_base_model, save_tuned):
    with pytest.raises(ArtifactCorrupt, match="base_model 'vit-b-16-openai', but 'tiny'"):
        Classifier.load(save_tuned(base_model="vit-b-16-openai"), tiny_base_model)
    with pytest.raises(ArtifactCorrupt, match="text_model 'another'"):
        Classifier.load(save_tuned(text_model="another"), tiny_base_model)


def test_weights_that_do_not_fit_are_refused(tiny_base_model, save_tuned, tmp_path):
    folder = save_tuned()
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 255
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="hash"):
        Classifier.load(folder, tiny_base_model)


def test_predictions_are_the_likeliest_first():
    probabilities = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    found = predictions(probabilities, ("a", "b", "c"), top_k=2)
    assert [[p.label for p in row] for row in found] == [["b", "c"], ["a", "c"]]
    assert found[0][0].score == pytest.approx(0.6)
    assert [len(row) for row in predictions(probabilities, ("a", "b", "c"))] == [3, 3]
    assert [len(row) for row in predictions(probabilities, ("a", "b", "c"), top_k=10)] == [3, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "0 label"), (["cat"], "1 label"), (["cat", " "], "empty"), (["cat", "dog", "cat"], "'cat' is given twice")],
)
def test_labels_among_which_nothing_can_be_chosen_are_refused(labels, message):
    with pytest.raises(LabelsInvalid, match=message) as caught:
        check_labels(labels)
    assert caught.value.param == "labels"


def test_labels_that_differ_are_fine():
    check_labels(["cat", "dog"])

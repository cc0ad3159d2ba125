"""Class names and templates to prompts, embeddings and the similarity that a job stores."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from alignclip_core.encoder import TextEncoder, build_text_encoder
from alignclip_core.errors import LabelsInvalid
from alignclip_core.prompts import build_prompts, class_similarity_of, embed_classes
from alignclip_core.run_dir import ClassSimilarity

TEMPLATES = ("a photo of a {}.", "{} texture.")


@pytest.fixture(scope="module")
def text_encoder(starter_model) -> TextEncoder:
    return build_text_encoder(starter_model)


@pytest.mark.parametrize(
    ("name", "hyphens_to_spaces", "prompt"),
    [
        ("dog", False, "a photo of a dog."),
        ("alarm_clock", False, "a photo of a alarm clock."),
        ("t-shirt", False, "a photo of a t-shirt."),
        ("t-shirt", True, "a photo of a t shirt."),
        ("  black__bear_ ", False, "a photo of a black bear."),
        ("{0.__class__}", False, "a photo of a {0. class }."),
        ("Löwenzahn", False, "a photo of a Löwenzahn."),
    ],
)
def test_prompt_is_the_template_with_the_readable_name(name, hyphens_to_spaces, prompt):
    assert build_prompts([name], TEMPLATES[:1], hyphens_to_spaces) == [[prompt]]


def test_each_class_gets_every_template():
    assert build_prompts(["dog", "cat"], TEMPLATES) == [
        ["a photo of a dog.", "dog texture."],
        ["a photo of a cat.", "cat texture."],
    ]


@pytest.mark.parametrize("name", ["", "  ", "_"])
def test_empty_names_are_refused(name):
    with pytest.raises(LabelsInvalid, match="empty"):
        build_prompts(["dog", name], TEMPLATES)


def test_names_that_read_alike_are_refused():
    with pytest.raises(LabelsInvalid, match="2 classes are called 'alarm clock'"):
        build_prompts(["alarm_clock", "dog", "alarm clock"], TEMPLATES)
    with pytest.raises(LabelsInvalid, match="'t shirt'"):
        build_prompts(["t-shirt", "t shirt"], TEMPLATES, hyphens_to_spaces=True)


def test_class_embedding_is_the_mean_of_unit_features_at_unit_length(text_encoder):
    embeddings = embed_classes(text_encoder, ["dog", "alarm_clock"], TEMPLATES)
    for row, name in zip(embeddings, ["dog", "alarm clock"], strict=True):
        features = text_encoder.encode([template.replace("{}", name) for template in TEMPLATES])
        assert_close(row, normalize(features.mean(0), dim=0), atol=1e-5, rtol=0)
    assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_similarity_is_symmetric_fp32_and_survives_its_file(text_encoder, tmp_path):
    names = ["dog", "puppy", "alarm_clock", "car"]
    similarity = class_similarity_of(text_encoder, names, TEMPLATES)
    assert similarity.class_names == tuple(names)
    assert similarity.text_model == text_encoder.text_model
    assert similarity.cosine.dtype == similarity.class_embeddings.dtype == np.float32
    assert np.array_equal(similarity.cosine, similarity.cosine.T)
    assert np.array_equal(similarity.cosine.diagonal(), np.ones(4))
    assert similarity.cosine[0, 1] > similarity.cosine[0, 3] > 0
    similarity.save(tmp_path / "similarity.safetensors")
    loaded = ClassSimilarity.load(tmp_path / "similarity.safetensors")
    assert np.array_equal(loaded.cosine, similarity.cosine)
    assert loaded.sha256 == similarity.sha256


def test_several_words_for_a_class_are_averaged_over_all_templates(text_encoder):
    embeddings = embed_classes(text_encoder, ["sofa|living_room couch", "dog"], TEMPLATES)
    prompts = [template.replace("{}", word) for word in ("sofa", "living room couch") for template in TEMPLATES]
    assert_close(embeddings[0], normalize(text_encoder.encode(prompts).mean(0), dim=0), atol=1e-5, rtol=0)
    assert_close(embeddings[1], embed_classes(text_encoder, ["dog"], TEMPLATES)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", [["sofa|couch", "couch"], ["sofa|sofa", "dog"], ["sofa|", "dog"], ["|", "dog"]])
def test_a_word_that_is_empty_or_stands_twice_is_refused(names):
    with pytest.raises(LabelsInvalid):
        build_prompts(names, TEMPLATES)

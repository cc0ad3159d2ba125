"""Each export, reloaded in its own library, gives the logits of the model that was exported."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import CLIPModel, CLIPProcessor

from alignclip_core.algorithms.coop import SharedContext
from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, read_card
from alignclip_core.encoder import build_text_encoder
from alignclip_core.errors import BaseModelError, ExportUnfit
from alignclip_core.export.exporting import export_model
from alignclip_core.export.fitness import check_fits
from alignclip_core.finished_model import load_base_model, load_finished_model
from alignclip_core.pixels import normalise, prepare_image
from alignclip_core.prompts import embed_classes

PROMPTS = ["a drawing of a circle.", "a cross", "naïve café's 24 squares!"]


@pytest.fixture(scope="module")
def tuned(tuned_folder, tiny_base_model):
    return load_finished_model(tuned_folder, tiny_base_model)


@pytest.fixture(scope="module")
def pixels(tuned):
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def logits(tuned, pixels):
    """The product's own, of the prompts."""
    with torch.no_grad():
        return tuned.logit_scale * tuned.image_encoder(pixels) @ build_text_encoder(tuned.base_model).encode(PROMPTS).T


@pytest.fixture
def picture():
    noise = np.random.default_rng(7).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return Image.fromarray(noise)  # its short side is the model's: no filter, only the crop


def own_pixels(model, picture):
    return normalise(prepare_image(picture, model.preprocessing)[None], model.preprocessing)


def test_open_clip_reloads_its_folder(tuned, tmp_path, pixels, logits, picture):
    folder = export_model(tuned, "open_clip", tmp_path / "out")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(PROMPTS)
    with torch.no_grad():
        assert_close(model.eval().get_logits(pixels, tokens)[0], logits, atol=1e-4, rtol=0)
    assert_close(transform(picture)[None], own_pixels(tuned, picture), atol=1e-6, rtol=0)
    assert json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]["quick_gelu"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_open_clip_folder_is_a_base_model_of_ours(tuned, tmp_path, pixels):
    folder = export_model(tuned, "open_clip", tmp_path / "again")
    again = load_base_model(read_card(folder, "again"))
    assert again.preprocessing == tuned.preprocessing
    with torch.no_grad():
        assert torch.equal(again.image_encoder(pixels), tuned.image_encoder(pixels))


def test_base_model_is_exported_as_it_is(tiny_base_model, tmp_path, pixels):
    base = load_base_model(tiny_base_model)
    folder = export_model(base, "open_clip", tmp_path / "out")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        assert_close(model.eval().encode_image(pixels, normalize=True), base.image_encoder(pixels), atol=1e-5, rtol=0)
    assert json.loads((folder / "alignclip.json").read_text())["labels"] == []


def test_other_logit_scale_is_kept(tuned, tmp_path, pixels, logits):
    folder = export_model(replace(tuned, logit_scale=5.0), "open_clip", tmp_path / "out")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        found = model.eval().get_logits(pixels, open_clip.tokenize(PROMPTS))[0]
    assert_close(found, logits * 5 / tuned.logit_scale, atol=1e-4, rtol=0)


def test_tuned_pooling_is_kept_or_refused(tuned, tmp_path, pixels):
    average = replace(tuned, manifest=tuned.manifest | {"config": tuned.manifest["config"] | {"pooling": "average"}})
    folder = export_model(average, "open_clip", tmp_path / "out")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tuned.image_encoder.pool_by("average")
    try:
        with torch.no_grad():
            found, expected = model.eval().encode_image(pixels, normalize=True), tuned.image_encoder(pixels)
    finally:
        tuned.image_encoder.pool_by(None)
    assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ExportUnfit, match="pool_type = 'avg'"):
        export_model(average, "huggingface", tmp_path / "hub")


def test_transformers_reloads_its_folder(tuned, tmp_path, pixels, logits, picture):
    folder = export_model(tuned, "huggingface", tmp_path / "out")
    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    texts = processor.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert_close(model(pixel_values=pixels, **texts).logits_per_image, logits, atol=1e-4, rtol=0)
    assert model.config.vision_config.hidden_act == "quick_gelu"
    seen = processor.image_processor(picture, return_tensors="pt").pixel_values
    assert_close(seen, own_pixels(tuned, picture), atol=1e-5, rtol=0)


def test_transformers_reads_texts_as_open_clip_does(tuned, tmp_path):
    folder = export_model(tuned, "huggingface", tmp_path / "out")
    tokenizer = CLIPProcessor.from_pretrained(folder, local_files_only=True).tokenizer
    for prompt in [*PROMPTS, "A  photo of\na RED-panda_2.", "日本 ünïcode", "word " * 100]:
        expected = open_clip.tokenize([prompt])[0]
        assert tokenizer(prompt, truncation=True)["input_ids"] == expected[expected > 0].tolist()


def test_resizing_that_transformers_does_not_do_is_refused_before_anything_is_made(tuned):
    base, preprocessing = tuned.base_model, tuned.manifest["preprocessing"]
    for mode in ("shortest", "squash"):
        check_fits(base, "huggingface", tuned.manifest | {"preprocessing": preprocessing | {"resize_mode": mode}})
    longest = tuned.manifest | {"preprocessing": preprocessing | {"resize_mode": "longest"}}
    with pytest.raises(ExportUnfit, match="resized with 'longest'"):
        check_fits(base, "huggingface", longest)
    check_fits(base, "open_clip", longest)


def test_gelu_stays_gelu(tiny_model_config, tmp_path, pixels):
    config = tiny_model_config | {"quick_gelu": False}
    base = load_base_model(write_base(tmp_path / "gelu", config))
    folder = export_model(base, "huggingface", tmp_path / "out")
    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        features = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
        assert_close(features, base.image_encoder(pixels), atol=1e-5, rtol=0)


def test_onnx_gives_the_logits_of_its_classes_for_any_batch(tuned, tmp_path, pixels):
    folder = export_model(tuned, "onnx", tmp_path / "out")
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    told = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told["alignclip.labels"] == ["circle", "cross", "square", "triangle"]
    assert told["alignclip.preprocessing"]["image_size"] == 32
    embeddings = np.load(folder / "class_embeddings.npy")
    texts = embed_classes(build_text_encoder(tuned.base_model), told["alignclip.labels"], told["alignclip.templates"])
    assert_close(torch.from_numpy(embeddings), texts)
    for images in (pixels, pixels[:1]):
        with torch.no_grad():
            expected = tuned.image_encoder(images)
        given = {"pixel_values": images.numpy(), "class_embeddings": embeddings}
        features, logits = session.run(["image_features", "logits"], given)
        assert_close(torch.from_numpy(features), expected, atol=1e-5, rtol=0)
        assert_close(torch.from_numpy(logits), told["alignclip.logit_scale"] * expected @ texts.T, atol=1e-4, rtol=0)
    _, two = session.run(None, {"pixel_values": pixels.numpy(), "class_embeddings": embeddings[:2]})
    assert two.shape == (3, 2)


@pytest.mark.parametrize(
    ("config", "export_format", "reason"),
    [
        ({"algorithm": "coop"}, "open_clip", r"learned prompts.*'onnx'"),
        ({"algorithm": "wise_ft", "head": "linear"}, "huggingface", r"a linear head.*'onnx'"),
        ({"algorithm": "cocoop"}, "onnx", r"anew for the images.*coop"),
        ({"algorithm": "dpl"}, "open_clip", r"anew for the images.*coop"),
    ],
)
def test_what_was_learned_beside_the_tower_is_not_left_behind(tuned, config, export_format, reason):
    manifest = tuned.manifest | {"config": tuned.manifest["config"] | config}
    with pytest.raises(ExportUnfit, match=reason):
        check_fits(tuned.base_model, export_format, manifest)


def test_class_embeddings_beside_onnx_are_the_learned_ones(tuned, tmp_path):
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(8))
    coop = replace(tuned, learned_classes=SharedContext(context).requires_grad_(False))
    found = np.load(export_model(coop, "onnx", tmp_path / "out") / "class_embeddings.npy")
    texts = build_text_encoder(tuned.base_model)
    with torch.no_grad():
        expected = texts.encode_with_context(list(tuned.labels), context)
    assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


def test_starter_runs_as_onnx(starter_model, tmp_path):
    starter = load_base_model(starter_model)
    folder = export_model(starter, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(6))
    texts = build_text_encoder(starter_model).encode(["a photo of a dog.", "a photo of a cat."])
    with torch.no_grad():
        expected = starter.logit_scale * starter.image_encoder(images) @ texts.T
    _, logits = session.run(None, {"pixel_values": images.numpy(), "class_embeddings": texts.numpy()})
    assert_close(torch.from_numpy(logits), expected, atol=1e-3, rtol=0)
    assert not (folder / "class_embeddings.npy").exists()


@pytest.mark.parametrize("export_format", ["open_clip", "huggingface"])
def test_starter_is_refused_where_no_library_can_build_it(starter_model, tmp_path, export_format):
    with pytest.raises(ExportUnfit, match=r"convolutional stem.*'onnx'"):
        export_model(load_base_model(starter_model), export_format, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type = 'avg'"),
        ({"vision_cfg": {"no_ln_pre": True}}, "no_ln_pre = True"),
        ({"text_cfg": {"vocab_size": 100}}, "vocab_size = 100"),
        ({"text_cfg": {"hf_model_name": "bert"}}, "text tower is bert"),
        ({"vision_cfg": {"layers": [1, 1, 1, 1]}}, "ResNet"),
    ],
)
def test_towers_that_clip_model_cannot_be_are_refused(tiny_base_model, tiny_model_config, tmp_path, change, reason):
    config = {name: value | change.get(name, {}) for name, value in tiny_model_config.items() if name.endswith("_cfg")}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": tiny_model_config | config}))
    with pytest.raises(ExportUnfit, match=f"{reason}.*'open_clip' or 'onnx'"):
        check_fits(replace(tiny_base_model, folder=tmp_path), "huggingface")


def test_folder_with_something_in_it_is_left_alone(tuned, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportUnfit, match="not empty"):
        export_model(tuned, "open_clip", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_failed_export_leaves_nothing(tuned, tmp_path):
    gone = replace(tuned, base_model=write_base(tmp_path / "base", None))
    with pytest.raises(BaseModelError):
        export_model(gone, "open_clip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def write_base(folder, config):
    """A base model with random weights of that configuration; None: with no weights that can be read."""
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config or {}}))
    if config is None:
        (folder / WEIGHTS_FILE).write_bytes(b"nothing")
    else:
        torch.manual_seed(2)
        save_file(open_clip.model.CLIP(**config).state_dict(), folder / WEIGHTS_FILE)
    return read_card(folder, folder.name)

"""A ResNet of ImageNet, which has no text tower: ERM and CORAL as DomainBed has them, and a refusal of all else."""

import json
import shutil
import threading

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.testing import assert_close

from alignclip_core.algorithms import make_algorithm
from alignclip_core.algorithms.coral import domain_distance
from alignclip_core.base_models import IMAGE_ONLY_CONFIG_FILE, IMAGE_ONLY_WEIGHTS_FILE, find_base_model, read_card
from alignclip_core.checkpoint import load_model
from alignclip_core.classifier import Classifier
from alignclip_core.config import make_config
from alignclip_core.conversion import convert_checkpoint
from alignclip_core.encoder import build_image_encoder, build_text_encoder, check_fits
from alignclip_core.encoder.plain_resnet import AS_TORCHVISION, make_resnet, write_folder
from alignclip_core.errors import BaseModelUnfit, BaseModelUnknown, ConfigInvalid, ConversionRefused, ExportUnfit
from alignclip_core.explain.maps import embed_label, make_maps
from alignclip_core.export.exporting import export_model
from alignclip_core.finished_model import load_base_model, load_finished_model
from alignclip_core.image_only import similarity_without_texts
from alignclip_core.pixels import normalise, prepare_image
from alignclip_core.run_dir import RunDir
from alignclip_core.train import train

NARROW = {
    "architecture": "resnet50",
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]},  # 256 numbers a feature
    "pretrained_cfg": {**AS_TORCHVISION, "input_size": (3, 64, 64)},
}
NAMES = {name: name for name in ("circle", "cross", "square", "triangle")}
LINEAR = {"head": "linear", "linear_start": "random", "num_steps": 4, "global_batch_size": 8, "learning_rate": 1e-3}


def random_weights(network):
    """Statistics and weights of which none is special, fit for each other: fresh ones would hide a mix-up."""
    network.train()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
        for _ in range(4):
            network(random_images(64, number=8))
    return network.eval()


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A narrow ResNet for images of 64 pixels, as a base model's folder."""
    torch.manual_seed(2)
    network = random_weights(timm.create_model("resnet50", num_classes=0, **NARROW["model_args"]))
    folder = tmp_path_factory.mktemp("models") / "narrow"
    folder.mkdir()
    write_folder(folder, NARROW, network.state_dict())
    return read_card(folder, "narrow")


def random_images(size=64, number=6):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(8))


def algorithm_of(base_model, algorithm, **given):
    config = make_config(base_model, class_names=NAMES, algorithm=algorithm, given=LINEAR | given)
    return make_algorithm(build_image_encoder(base_model), similarity_without_texts(base_model, config), config)


@pytest.mark.parametrize(("architecture", "suffix"), [("resnet50", ".pth"), ("resnet18", ".safetensors")])
@torch.no_grad()
def test_a_file_of_torchvision_gives_its_own_features(tmp_path, architecture, suffix):
    torch.manual_seed(5)
    theirs = random_weights(getattr(torchvision.models, architecture)(weights=None))
    file = tmp_path / f"theirs{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs.state_dict(), file)
    convert_checkpoint(file, architecture, tmp_path / "models" / "resnet50-imagenet")
    card = find_base_model("resnet50-imagenet", tmp_path / "models")
    assert not card.has_texts
    encoder = build_image_encoder(card)
    theirs.fc = torch.nn.Identity()
    images = random_images(224, number=2)
    assert_close(encoder(images), theirs(images), atol=1e-5, rtol=1e-5)
    seen = encoder.preprocess
    assert (seen.image_size, seen.mean, seen.interpolation) == (224, (0.485, 0.456, 0.406), "bilinear")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["resnet50-imagenet"]


def test_another_network_is_no_resnet50(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(ConversionRefused, match=r"The checkpoint is no resnet50\. It lacks layer1\.0\.bn3"):
        convert_checkpoint(tmp_path / "theirs.pth", "resnet50", tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_files_of_other_libraries_are_no_model_of_this_kind(resnet, tmp_path):
    shutil.copytree(resnet.folder, tmp_path / "clip")
    (tmp_path / "clip" / IMAGE_ONLY_CONFIG_FILE).write_text(json.dumps({"architectures": ["CLIPModel"]}))
    with pytest.raises(BaseModelUnknown, match="No base model 'clip'"):
        find_base_model("clip", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vit_tiny_patch16_224", "model_args": {}}, "is a VisionTransformer"),
        ({"pretrained_cfg": {}}, "no configuration of a ResNet"),
        ({"model_args": {}}, "does not fit"),
    ],
)
def test_a_damaged_folder_is_told(resnet, tmp_path, change, message):
    folder = shutil.copytree(resnet.folder, tmp_path / "narrow")
    (folder / IMAGE_ONLY_CONFIG_FILE).write_text(json.dumps(NARROW | change))
    with pytest.raises(BaseModelUnfit, match=message):
        build_image_encoder(read_card(folder, "narrow"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_erm_has_the_loss_and_gradients_of_a_plain_network_with_a_linear_layer(resnet, checkpointing):
    own = algorithm_of(resnet, "finetune")
    own.encoder.gradient_checkpointing = checkpointing
    network = make_resnet(NARROW).to_empty(device="cpu").eval()
    network.load_state_dict(load_file(resnet.folder / IMAGE_ONLY_WEIGHTS_FILE))
    layer = torch.nn.Linear(256, 4, bias=False)
    layer.weight.data.copy_(own.learned_parameters["learned.classes.weight"])
    images, labels = random_images(), torch.tensor([0, 1, 2, 3, 1, 0])

    loss = own(images, labels).losses.total
    loss.backward()
    expected = F.cross_entropy(layer(network(images)), labels)
    expected.backward()
    assert_close(loss, expected)
    assert_close(own.learned_parameters["learned.classes.weight"].grad, layer.weight.grad)
    found = {name: value.grad for name, value in own.encoder.visual.named_parameters()}
    for name, value in network.named_parameters():
        assert value.grad.abs().max() > 0, name
        assert_close(found[name], value.grad, atol=1e-6, rtol=1e-4)


def test_coral_compares_the_features_as_the_network_has_them(resnet):
    coral = algorithm_of(resnet, "coral", domain_alignment_weight=2.0)
    images, labels, domains = random_images(), torch.tensor([0, 1, 2, 3, 1, 0]), torch.tensor([0, 1, 0, 1, 0, 1])
    losses = coral(images, labels, domains).losses
    features = coral.encoder(images)
    distance = domain_distance(features[domains == 0], features[domains == 1])
    assert distance.item() > 0
    assert_close(losses.total, losses.smoothing + 2 * distance)


@pytest.fixture(scope="module")
def trained(resnet, draw_dataset, tmp_path_factory):
    """A run of ERM to its end, the checkpoints kept."""
    torch.set_num_threads(1)  # as each test has it: sums depend on it to the last bit
    run_dir = RunDir(tmp_path_factory.mktemp("runs") / "run")
    draw_dataset(run_dir.dataset, ("plain", "dotted"), num_images=4)
    given = LINEAR | {"num_steps": 30, "checkpoint_every_steps": 15, "test_domains": ("dotted",)}
    config = make_config(resnet, class_names=NAMES, algorithm="finetune", given=given)
    run_dir.write_config(config)
    similarity_without_texts(resnet, config).save(run_dir.similarity_file)
    train(run_dir, models_dir=resnet.folder.parent, stop=threading.Event())
    return run_dir


def test_it_learns_and_goes_on_exactly(trained, resnet, tmp_path):
    losses = [record.values["loss"] for record in trained.read_records()[0] if record.kind == "train"]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    before = load_file(resnet.folder / IMAGE_ONLY_WEIGHTS_FILE)
    whole = load_model(trained.model)
    assert not torch.equal(whole.weights["visual.layer4.0.conv1.weight"], before["layer4.0.conv1.weight"])
    assert torch.equal(whole.weights["visual.bn1.running_mean"], before["bn1.running_mean"])
    result = whole.manifest["result"]["tuned"]["test_domains"]["trained_classes"]
    assert result["num_images"] == 16

    again = RunDir(shutil.copytree(trained.path, tmp_path / "again", symlinks=True))
    shutil.rmtree(again.model)
    (step, _), *later = again.list_checkpoints()
    assert step == 15
    for _, folder in later:
        shutil.rmtree(folder)
    train(again, models_dir=resnet.folder.parent, stop=threading.Event())
    assert load_model(again.model).manifest["weights_sha256"] == whole.manifest["weights_sha256"]


def test_the_tuned_model_knows_its_classes_and_says_that_it_knows_no_other(trained, resnet):
    model = load_finished_model(trained.model, resnet)
    texts = build_text_encoder(resnet)
    embeddings = model.class_embeddings_of(texts, model.labels)
    picture = Image.open(trained.dataset / "plain" / "circle" / "0.png").convert("RGB")
    found = Classifier.of(model).classify([picture], embeddings)
    pixels = normalise(prepare_image(picture, model.preprocessing)[None], model.preprocessing)
    with torch.no_grad():
        logits = model.image_encoder(pixels) @ model.learned_classes.weight.T
    assert_close(found, logits.softmax(dim=1), atol=1e-5, rtol=1e-5)
    with pytest.raises(BaseModelUnfit, match=r"'narrow' has no text tower, so it knows no words.*head=linear"):
        model.class_embeddings_of(texts, ["circle", "zebra"])


@torch.no_grad()
def test_where_it_looks_for_a_class_is_the_class_activation_map(trained, resnet):
    model = load_finished_model(trained.model, resnet)
    picture = Image.open(trained.dataset / "plain" / "cross" / "1.png").convert("RGB")
    maps = make_maps(model, picture, embed_label(model, build_text_encoder(resnet), picture, "cross"))
    pixels = normalise(prepare_image(picture, model.preprocessing)[None], model.preprocessing)
    last = model.image_encoder.visual.forward_features(pixels)[0]
    activation = torch.einsum("dhw,d->hw", last, model.learned_classes.weight[1])
    lengths = last.norm(dim=0) * model.learned_classes.weight[1].norm()
    np.testing.assert_allclose(maps.patch_similarity, (activation / lengths).numpy(), atol=1e-5)
    np.testing.assert_allclose(maps.cls_attention, 0.25)


def test_it_is_exported_as_a_graph_and_as_no_clip(trained, resnet, tmp_path):
    model = load_finished_model(trained.model, resnet)
    folder = export_model(model, "onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    embeddings = np.load(folder / "class_embeddings.npy")
    images = random_images(number=3)
    _, logits = session.run(None, {"pixel_values": images.numpy(), "class_embeddings": embeddings})
    with torch.no_grad():
        expected = model.image_encoder(images) @ model.learned_classes.weight.T
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-4)
    for name in ("open_clip", "huggingface"):
        with pytest.raises(ExportUnfit, match=f"image tower alone, and {name} holds a text tower beside it.*'onnx'"):
            export_model(load_base_model(resnet), name, tmp_path / name)


@pytest.mark.parametrize(
    ("algorithm", "given", "words"),
    [
        ("alignclip", {}, "alignclip with head text has nothing to classify by"),
        ("clipood", {}, "clipood with head text"),
        ("finetune", {}, "finetune with head text"),
        ("coral", {}, "coral with head text"),
        ("zero_shot", {}, "zero_shot with head text"),
        ("coop", {}, "coop with head text"),
        ("finetune", {"head": "linear", "unseen_classes": ("cross",)}, "unseen classes would stay unknown"),
    ],
)
def test_what_reads_texts_is_refused_by_name(resnet, algorithm, given, words):
    config = make_config(resnet, class_names=NAMES, algorithm=algorithm, given=given)
    with pytest.raises(BaseModelUnfit, match=f"'narrow' has no text tower, so {words}.*'vit-b-16-openai'") as refused:
        check_fits(build_image_encoder(resnet), config)
    assert refused.value.param == "model"


@pytest.mark.parametrize(
    ("algorithm", "given", "words"),
    [
        ("miro", {}, "blocks of a vision transformer"),
        ("finetune", {"pooling": "class_token"}, "mean of its patches"),
        ("finetune", {"trainable": "lora"}, "nothing to train"),
    ],
)
def test_what_a_resnet_does_not_have_is_refused(resnet, algorithm, given, words):
    config = make_config(resnet, class_names=NAMES, algorithm=algorithm, given={"head": "linear"} | given)
    with pytest.raises(ConfigInvalid, match=words):
        check_fits(build_image_encoder(resnet), config)


def test_a_linear_probe_of_it_trains_the_head_alone(resnet):
    encoder = build_image_encoder(resnet)
    tower, head = (
        check_fits(encoder, make_config(resnet, class_names=NAMES, algorithm="finetune", given=given))
        for given in ({"head": "linear"}, {"head": "linear", "trainable": "none"})
    )
    assert tower.num_trained == sum(value.numel() for value in encoder.parameters())
    assert (head.num_trained, head.num_activations) == (0, 0)


def test_the_memory_of_a_step_is_counted_as_the_graph_keeps_it(tmp_path):
    network = timm.create_model("resnet50", num_classes=0).eval()
    (tmp_path / "whole").mkdir()
    config = {"architecture": "resnet50", "pretrained_cfg": AS_TORCHVISION}
    write_folder(tmp_path / "whole", config, network.state_dict())
    kept = {}
    own = {value.data_ptr() for value in network.state_dict().values()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.setdefault(value.data_ptr(), value), lambda value: value
    ):
        features = network(random_images(224, number=1))
    expected = sum(value.numel() for place, value in kept.items() if place not in own)
    assert features.requires_grad
    card = read_card(tmp_path / "whole", "whole")
    config = make_config(card, class_names=NAMES, algorithm="finetune", given={"head": "linear"})
    assert check_fits(build_image_encoder(card), config).num_activations == pytest.approx(expected, rel=0.02)

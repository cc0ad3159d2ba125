"""The image tower equals open_clip's, and what it gives beside the features equals a naive computation with hooks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cosine_similarity, linear, normalize
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from alignclip_core.config import PRESETS, FinetuneConfig
from alignclip_core.encoder import ImageEncoder, Preprocessing, build_image_encoder
from alignclip_core.errors import BaseModelUnfit, ConfigInvalid
from alignclip_core.method.losses import total_loss

PREPROCESS = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
TINY = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 8}
CONFIG = FinetuneConfig(base_model="tiny", class_names={"cat": "cat", "dog": "dog"})


def random_tower(vision_config: dict, *, embed_dim: int = 32, quick_gelu: bool = False) -> nn.Module:
    """An open_clip image tower in which no weight is special: fresh biases are 0 and would hide a mix-up."""
    torch.manual_seed(7)
    tower = _build_vision_tower(embed_dim, vision_config, quick_gelu)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tower.eval()


def encoder_of(tower: nn.Module) -> ImageEncoder:
    return ImageEncoder(tower, logit_scale=20.0, preprocess=PREPROCESS)


def random_images(batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(8))


@pytest.fixture
def encoder() -> ImageEncoder:
    return encoder_of(random_tower(TINY, quick_gelu=True))


# Equality with open_clip


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32-quickgelu", "ViT-L-14-quickgelu"])
@torch.no_grad()
def test_features_equal_open_clips_at_full_size(name):
    model_config = open_clip.get_model_config(name)
    vision_config = model_config["vision_cfg"] | {"layers": min(model_config["vision_cfg"]["layers"], 12)}  # L/14: 24
    quick_gelu = model_config.get("quick_gelu", False)
    tower = random_tower(vision_config, embed_dim=model_config["embed_dim"], quick_gelu=quick_gelu)
    images = random_images(batch=1, size=224)
    encoder, expected = encoder_of(tower), normalize(tower(images), dim=-1)
    assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_aligned(images, CONFIG).image_features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ls_init_value": 0.1, "layers": 3},
        {"pool_type": "avg"},
        {"no_ln_pre": True, "mlp_ratio": 2.0},
        {"pos_embed_type": "sin_cos_2d", "patch_size": 16},
        {"patch_dropout": 0.5},
        {"layers": 24, "width": 64, "patch_size": 14, "image_size": 56, "mlp_ratio": 4.0},  # as deep as ViT-L/14
        {"layers": 2, "width": 32, "patch_size": 4, "image_size": 40},  # 100 patches
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
@torch.no_grad()
def test_features_equal_open_clips_in_every_supported_form(changes):
    tower = random_tower(TINY | changes)
    images = random_images(size=changes.get("image_size", 32))
    encoder, expected = encoder_of(tower), normalize(tower(images), dim=-1)
    config = replace(CONFIG, num_aligned_layers=2)
    assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_aligned(images, config).image_features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pooling", "pool_type"), [("average", "avg"), ("class_token", "tok"), (None, "tok")])
@torch.no_grad()
def test_pooling_is_what_open_clip_means_by_it(encoder, pooling, pool_type):
    images = random_images()
    of_class_token = normalize(encoder.visual(images), dim=-1)
    expected = normalize(random_tower(TINY | {"pool_type": pool_type}, quick_gelu=True)(images), dim=-1)
    encoder.pool_by("average")
    encoder.pool_by(pooling)
    assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_aligned(images, CONFIG).image_features, expected, atol=1e-5, rtol=0)
    assert torch.allclose(of_class_token, expected, atol=1e-4) == (pool_type == "tok")


@torch.no_grad()
def test_starters_features_equal_open_clips_forward(starter_model):
    encoder = build_image_encoder(starter_model)
    images = random_images(size=224)
    expected = normalize(encoder.visual(images), dim=-1)
    assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_aligned(images, CONFIG).image_features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attentional_pool": True}, "pools by attention"),
        ({"final_ln_after_pool": True}, "normalises after pooling"),
        ({"pool_type": "none"}, "pool_type 'none'"),
        ({"qk_norm": True}, "attention blocks of a special type"),
        ({"layers": [1, 1, 1, 1], "image_size": 64}, "ModifiedResNet"),
    ],
)
def test_towers_without_plain_attention_over_patches_are_refused(changes, reason):
    tower = _build_vision_tower(32, TINY | changes)
    with pytest.raises(BaseModelUnfit, match=reason):
        encoder_of(tower)


# What comes beside the features


@contextmanager
def recorded_blocks(tower: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The tokens that enter each block, in order."""
    inputs: list[torch.Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
        for block in tower.transformer.resblocks
    ]
    yield inputs
    for hook in hooks:
        hook.remove()


def naive_dv_patches(
    tower: nn.Module, images: torch.Tensor, *, start: int, structure: str = "dv", with_mlp: bool = False
) -> torch.Tensor:
    """Unit-length patch features of the D-V branch, recomputed in double precision from recorded block inputs."""
    tower, images = copy.deepcopy(tower).double(), images.double()
    with recorded_blocks(tower) as inputs:
        tower(images)
    tokens = inputs[start]
    for block, main_tokens in zip(tower.transformer.resblocks[start:], inputs[start:], strict=True):
        attention, normed = block.attn, block.ln_1(main_tokens)
        attended = []
        for image in range(len(images)):
            heads = []
            for head in range(attention.num_heads):
                projected = {}
                for offset, letter in enumerate("qkv"):
                    first = offset * attention.embed_dim + head * attention.head_dim
                    rows = slice(first, first + attention.head_dim)
                    projected[letter] = linear(
                        normed[image], attention.in_proj_weight[rows], attention.in_proj_bias[rows]
                    )
                if structure == "dv":
                    heads.append(torch.eye(len(normed[image])).double() @ projected["v"])
                else:
                    query, key, value = (projected[letter] for letter in structure)
                    heads.append((query @ key.T / attention.head_dim**0.5).softmax(-1) @ value)
            attended.append(torch.cat(heads, dim=-1))
        tokens = tokens + block.ls_1(attention.out_proj(torch.stack(attended)))
        if with_mlp:
            tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return normalize((tower.ln_post(tokens) @ tower.proj)[:, 1:], dim=-1).float()


@pytest.mark.parametrize("structure", ["dv", "vvv", "kkv", "qqv", "qqq", "qkk"])
@pytest.mark.parametrize(("start", "with_mlp"), [(None, False), (5, True)])
@torch.no_grad()
def test_dv_branch_equals_a_naive_one(structure, start, with_mlp):
    tower = random_tower(TINY | {"ls_init_value": 0.5}, quick_gelu=True)
    config = replace(CONFIG, dv_structure=structure, dv_start_block=start, dv_mlp=with_mlp)
    found = encoder_of(tower).forward_aligned(random_images(), config).dv_patch_features
    # the last six of eight blocks, where the config names no start
    expected = naive_dv_patches(
        tower, random_images(), start=2 if start is None else start, structure=structure, with_mlp=with_mlp
    )
    assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_dv_branch_of_a_shallow_tower_starts_at_its_first_block():
    tower = random_tower(TINY | {"layers": 3})
    found = encoder_of(tower).forward_aligned(random_images(), replace(CONFIG, num_aligned_layers=1))
    assert_close(found.dv_patch_features, naive_dv_patches(tower, random_images(), start=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_aligned_layers", [1, 4, 8])
@pytest.mark.parametrize("over_patches", [True, False])
@torch.no_grad()
def test_cls_attention_equals_torchs_own_attention_maps(encoder, num_aligned_layers, over_patches):
    images = random_images()
    with recorded_blocks(encoder.visual) as inputs:
        encoder.visual(images)
    layers = []
    for block, tokens in list(zip(encoder.visual.transformer.resblocks, inputs, strict=True))[:num_aligned_layers]:
        normed = block.ln_1(tokens)
        _, maps = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        row = maps[:, :, 0, 1:]  # of the class token over the patches, [batch, heads, patches]
        if over_patches:
            layers.append((row / row.sum(-1, keepdim=True)).mean(1))
        else:
            layers.append(normalize(row.mean(1), p=1, dim=-1))
    config = replace(CONFIG, num_aligned_layers=num_aligned_layers, attention_over_patches=over_patches)
    found = encoder.forward_aligned(images, config).log_cls_attention
    assert_close(found.exp(), torch.stack(layers).mean(0), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_patch_features_are_the_projected_last_tokens(encoder):
    encoder.visual.output_tokens = True
    _, tokens = encoder.visual(random_images())  # after ln_post, before proj
    found = encoder.forward_aligned(random_images(), CONFIG).patch_features
    assert_close(found, normalize(tokens @ encoder.visual.proj, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "computed"),
    [
        ({}, {"log_cls_attention", "patch_features", "dv_patch_features"}),
        ({"similarity_alignment_weight": 0.0}, {"log_cls_attention", "dv_patch_features"}),
        ({"layer_alignment_weight": 0.0}, {"patch_features", "dv_patch_features"}),
        ({"attention_target": "main"}, {"log_cls_attention", "patch_features"}),
        ({"layer_alignment_weight": 0.0, "attention_target": "main"}, set()),
        ({"layer_alignment_weight": 0.0, "similarity_alignment_weight": 0.0}, set()),
    ],
)
@torch.no_grad()
def test_only_what_the_losses_read_is_computed_and_the_features_stay_the_same(encoder, changes, computed):
    config = replace(CONFIG, **changes)
    features = encoder.forward_aligned(random_images(), config)
    given = {name for name, value in features._asdict().items() if value is not None} - {"image_features"}
    assert given == computed
    assert_close(features.image_features, encoder(random_images()), atol=1e-6, rtol=0)
    total_loss(  # reads what it needs, or fails
        **features._asdict(),
        class_embeddings=torch.eye(2, 32),
        targets=torch.eye(2),
        labels=torch.tensor([0, 1]),
        logit_scale=20.0,
        config=config,
    )


@pytest.mark.parametrize(("name", "value"), [("num_aligned_layers", 9), ("dv_start_block", 8)])
def test_blocks_that_the_tower_does_not_have_are_refused_by_name(encoder, name, value):
    with pytest.raises(ConfigInvalid, match=f"{name} is {value}") as refused:
        encoder.forward_aligned(random_images(), replace(CONFIG, **{name: value}))
    assert refused.value.param == name


# Gradients


def gradients(encoder: ImageEncoder, config: FinetuneConfig, *, autocast: bool = False) -> dict[str, torch.Tensor]:
    """Of the total loss; parameters that it does not reach are left out."""
    encoder.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features = encoder.forward_aligned(random_images(), config)
        losses = total_loss(
            **features._asdict(),
            class_embeddings=normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(9)), dim=-1),
            targets=torch.eye(4)[[1, 3]],
            labels=torch.tensor([1, 3]),
            logit_scale=20.0,
            config=config,
        )
    losses.total.backward()
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}


def test_gradient_reaches_the_whole_tower_and_neither_scale_nor_dv_branch(encoder):
    assert gradients(encoder, CONFIG).keys() == {name for name, _ in encoder.named_parameters()}
    assert isinstance(encoder.logit_scale, float)
    assert not encoder.forward_aligned(random_images(), CONFIG).dv_patch_features.requires_grad


def test_layer_alignment_trains_the_aligned_layers_alone(encoder):
    config = replace(CONFIG, num_aligned_layers=3, similarity_alignment_weight=0.0, smoothing_loss_weight=0.0)
    reached = {name for name, value in gradients(encoder, config).items() if value.abs().max() > 0}
    whole = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
    blocks = ("resblocks.0.", "resblocks.1.", "resblocks.2.ln_1", "resblocks.2.attn.in_proj")
    within = (*whole, *(f"transformer.{name}" for name in blocks))
    assert reached == {
        name for name, _ in encoder.named_parameters() if name.removeprefix("visual.").startswith(within)
    }


def test_dv_branch_leaves_the_main_streams_gradient_untouched(encoder):
    without = replace(CONFIG, layer_alignment_weight=0.0, attention_target="main")
    beside = replace(CONFIG, layer_alignment_weight=1e-30, similarity_alignment_weight=0.0)
    for autocast in (False, True):
        expected, found = (gradients(encoder, config, autocast=autocast) for config in (without, beside))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert_close(found[name], value, atol=1e-7, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_in_bf16_autocast_point_where_fp32s_do(encoder, preset):
    changes = {name: value for name, value in PRESETS[preset].items() if name != "global_batch_size"}
    config = replace(CONFIG, **changes)
    in_fp32, in_bf16 = gradients(encoder, config), gradients(encoder, config, autocast=True)
    assert in_fp32.keys() == in_bf16.keys()
    flat_fp32, flat_bf16 = (torch.cat([value.flatten() for value in found.values()]) for found in (in_fp32, in_bf16))
    assert cosine_similarity(flat_fp32, flat_bf16, dim=0) > 0.99
    assert all(value.dtype == torch.float32 for value in in_bf16.values())


@torch.no_grad()
def test_features_under_autocast_are_fp32_and_close(encoder):
    expected = encoder.forward_aligned(random_images(), CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.forward_aligned(random_images(), CONFIG)
    for name, value in found._asdict().items():
        assert value.dtype == torch.float32, name
    assert cosine_similarity(found.image_features, expected.image_features).min() > 0.999
    assert_close(found.log_cls_attention.exp(), expected.log_cls_attention.exp(), atol=5e-3, rtol=0.1)


# Training and freezing


def test_encoder_stays_in_evaluation_mode_when_asked_to_train(starter_model):
    encoder = build_image_encoder(starter_model)
    encoder.train()
    assert not any(module.training for module in encoder.modules())


def test_everything_trains_by_default_except_fixed_positions(encoder):
    assert encoder.train_all_but().keys() == dict(encoder.named_parameters()).keys()
    fixed = encoder_of(random_tower(TINY | {"pos_embed_type": "sin_cos_2d"}))
    untrained = dict(fixed.named_parameters()).keys() - fixed.train_all_but().keys()
    assert untrained == {"visual.positional_embedding"}


def test_frozen_modules_get_no_gradient_and_thaw_again(encoder):
    trained = encoder.train_all_but(["conv1", "transformer.resblocks.1"])
    frozen = dict(encoder.named_parameters()).keys() - trained.keys()
    assert frozen == {
        name for name in dict(encoder.named_parameters())
        if name.startswith(("visual.conv1.", "visual.transformer.resblocks.1."))
    }  # fmt: skip
    assert gradients(encoder, CONFIG).keys() == trained.keys()
    assert len(encoder.train_all_but()) == len(trained) + len(frozen)


def test_starters_card_freezes_the_trunk_of_its_stem_and_nothing_else(starter_model):
    encoder = build_image_encoder(starter_model)
    trained = encoder.train_all_but(starter_model.frozen_modules)
    frozen = dict(encoder.named_parameters()).keys() - trained.keys()
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith("visual.conv1.trunk.")}
    assert "visual.conv1.proj.weight" in trained
    encoder(random_images(size=224)).sum().backward()
    assert all(value.grad is None for name, value in encoder.named_parameters() if name in frozen)
    assert trained["visual.conv1.proj.weight"].grad.abs().max() > 0


@pytest.mark.parametrize(("names", "message"), [(["conv2"], "conv2"), (["transformer.resblocks.10"], "resblocks.10")])
def test_unknown_frozen_modules_are_refused(encoder, names, message):
    with pytest.raises(ConfigInvalid, match=message):
        encoder.train_all_but(names)


def test_freezing_everything_is_refused(encoder):
    names = {name.removeprefix("visual.").split(".")[0] for name, _ in encoder.named_parameters()}
    with pytest.raises(ConfigInvalid, match="nothing to train"):
        encoder.train_all_but(sorted(names))


# Cost


def flops_of_a_step(name: str, config: FinetuneConfig | None) -> int:
    """Counted, forward and backward, without computing anything; None: open_clip's own forward pass."""
    with FakeTensorMode():
        encoder = encoder_of(_build_vision_tower(512, open_clip.get_model_config(name)["vision_cfg"]))
        images, texts = torch.randn(4, 3, 224, 224), torch.randn(65, 512)
        labels, targets = torch.zeros(4, dtype=torch.long), torch.rand(4, 65)
        with FlopCounterMode(display=False) as counter:
            if config is None:
                loss = encoder.visual(images).sum()
            else:
                features = encoder.forward_aligned(images, config)._asdict()
                loss = total_loss(
                    **features, class_embeddings=texts, targets=targets, labels=labels, logit_scale=100.0, config=config
                ).total
            loss.backward()
        return counter.get_total_flops()


def test_alignment_adds_two_percent_to_open_clips_step_and_the_baseline_saves_seven():
    plain = flops_of_a_step("ViT-B-16", None)
    baseline = replace(CONFIG, layer_alignment_weight=0.0, similarity_alignment_weight=0.0)
    assert flops_of_a_step("ViT-B-16", CONFIG) / plain == pytest.approx(1.020, abs=0.002)
    assert flops_of_a_step("ViT-B-16", baseline) / plain == pytest.approx(0.931, abs=0.002)

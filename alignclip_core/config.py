"""Every hyper-parameter of a fine-tune: its unit, default, paper symbol; and the named presets. Loads no torch.

The defaults of `FinetuneConfig` are the paper's printed values. `make_config` lays, in this order, the model card,
the preset, the algorithm and what the user gave over them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from alignclip_core.base_models import BaseModel
from alignclip_core.errors import ConfigInvalid

Algorithm = Literal[
    "alignclip",
    "clipood",
    "finetune",
    "label_smoothing",
    "wise_ft",
    "coral",
    "miro",
    "coop",
    "cocoop",
    "dpl",
    "zero_shot",
]
AttentionTarget = Literal["dv", "main"]
Averaging = Literal["bma", "swad", "none"]
Head = Literal["text", "linear"]
LinearStart = Literal["zero_shot", "random"]
Optimizer = Literal["adamw", "sgd"]
DvStructure = Literal["dv", "vvv", "kkv", "qqv", "qqq", "qkk"]
KlDirection = Literal["paper", "target_first"]
Pooling = Literal["class_token", "average"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
SmoothingTarget = Literal["similarity", "uniform"]
Trainable = Literal["all", "last_k_blocks", "attention", "query_key", "lora", "none"]
Interpolation = Literal["bicubic", "bilinear"]

TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "default": ("a photo of a {}.",),
        "pets": ("a photo of a {}, a type of pet.",),
        "flowers": ("a photo of a {}, a type of flower.",),
        "aircraft": ("a photo of a {}, a type of aircraft.",),
        "textures": ("{} texture.",),
        "satellite": ("a centered satellite photo of {}.",),
        "food": ("a photo of {}, a type of food.",),
        "actions": ("a photo of a person doing {}.",),
    }
)
"""The named template sets of the paper's appendix A.2, as CoOp's code has them."""
SYNONYM = "|"
"""Stands between the words for one class: its embedding is the mean over all of them and all templates."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tune, complete: two runs with equal configs and data give equal weights.

    Raises `ConfigInvalid`, naming the field, when a value cannot be used.
    """

    # What is trained, on what
    base_model: str
    class_names: Mapping[str, str]  # folder name -> display name or sofa|couch; all classes, sorted by folder
    algorithm: Algorithm = "alignclip"
    preset: str = "paper"
    templates: tuple[str, ...] = TEMPLATE_SETS["default"]  # each with one {}; class embedding = mean over them
    hyphens_to_spaces: bool = False  # also turn "-" in class names to spaces; "_" always is
    unseen_classes: tuple[str, ...] = ()  # folder names: never trained, evaluated on their own and in the union
    test_domains: tuple[str, ...] = ()  # domain folders left out of training
    validation_fraction: float = 0.2  # of each (domain, class), when no validation set is given
    test_fraction: float = 0.0  # of each (domain, class) outside test_domains: only evaluated; the same for every seed
    num_shots: int | None = None  # images of each (domain, class) that train, drawn by the seed; None: all
    seed: int = 0
    skip_bad_images: bool = False

    # Length and optimizer (cosine to zero)
    num_steps: int = 5000  # T: optimizer updates; fixed before step 0, the average's weights depend on it
    global_batch_size: int = 36  # images per update over all ranks and domains
    learning_rate: float = 5e-6
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.1
    warmup_steps: int = 0
    gradient_clip: float | None = None  # largest gradient norm; None: no clipping
    precision: Precision = "auto"  # of the forward pass; weights and losses are fp32. auto: bf16 on CUDA, else fp32
    pooling: Pooling | None = None  # class_token, or average: the mean of the patches (table 9); None: the model's own
    frozen_modules: tuple[str, ...] = ()  # prefixes of image-tower parameters that stay as they are

    # Which of the rest is trained (the paper: all; none: the head alone); docs/training.md has what each costs
    trainable: Trainable = "all"  # attention, query_key, lora: of every block; last_k_blocks: with ln_post and proj
    trainable_blocks: int = 4  # k of last_k_blocks
    lora_rank: int = 8  # r of lora: each weight matrix W of a block is W + 2 B A; asks for a larger learning_rate

    # What the baselines have of their own
    head: Head = "text"  # linear: a weight vector for each trained class in place of its texts
    linear_start: LinearStart = "zero_shot"  # of the linear head: the class embeddings, or random numbers
    interpolation_weight: float = 1.0  # a of WiSE-FT: (1 - a) θ0 + a θ is kept
    domain_alignment_weight: float = 1.0  # γ of CORAL
    feature_distance_weight: float = 0.1  # λ of MIRO

    # Memory: neither changes the method, but both change the last bits of the sums
    micro_batch_size: int | Literal["auto"] = "auto"  # images per rank and forward; auto: as many as fit on the device
    gradient_checkpointing: bool = False  # compute each block again in the backward pass instead of keeping its insides

    # Eq 1
    logit_scale: float | None = None  # 1/τ; None: the checkpoint's own (100 for OpenAI's CLIP)
    margin: float = 0.0  # subtracted from the true class's cosine (CLIPood's α)

    # Eq 2-6: attention alignment loss
    layer_alignment_weight: float = 1.0  # AL: KL between A_c and its target
    similarity_alignment_weight: float = 1.0  # AS: KL between G and its target
    num_aligned_layers: int = 4  # L of eq 3: the first L blocks
    token_temperature: float | None = None  # τ of eq 4; None: 1 / logit_scale, eq 1's τ
    attention_target: AttentionTarget = "dv"  # G*: eq 6 (the D-V branch) or eq 2 (the main branch)
    kl_direction: KlDirection = "paper"  # paper: KL(A‖G*); target_first: KL(G*‖A), as the authors' code
    attention_over_patches: bool = True  # A_c: softmax over patches only (eq 3); False: over all tokens, renormalised
    similarity_over_all_classes: bool = False  # AS summed over all classes (authors' code), not the label's alone
    dv_start_block: int | None = None  # first block of the D-V branch; None: depth - 6
    dv_mlp: bool = False  # run the MLP in the D-V branch too
    dv_structure: DvStructure = "dv"  # what stands in the places of Q-K-V (figures 7 and 8)

    # Eq 7-9: semantic label smoothing
    smoothing_loss_weight: float = 1.0  # λ
    smoothing: float = 0.1  # ε of eq 8: mass taken from the true class; at most 0.5
    smoothing_target: SmoothingTarget = "similarity"  # uniform: plain label smoothing
    similarity_scale: float | Literal["calibrated"] = 1.0  # inside B.5's softmax; calibrated: classes keep 0.6 of S'
    keep_diagonal: bool = True  # the true class keeps its share of S'; False: dropped, as the authors' code

    # Beyond the paper: how far the tower may go from where it began
    frozen_distance_weight: float = 0.0  # of 1 - cosine between an image's features and the pre-trained tower's

    # The average over the run: the beta moving average, or SWAD's over the valley of the validation loss
    averaging: Averaging = "bma"
    bma_beta: float = 0.5  # β of Beta(β, β)
    swad_converge: int = 3  # evaluations of which the first must be the best, for the valley to begin
    swad_tolerance: int = 6  # evaluations that must all be above the threshold, for the valley to end
    swad_ratio: float = 0.3  # how far the threshold lies above the mean loss at the beginning, as a share

    # Images
    crop_scale: tuple[float, float] = (0.7, 1.0)  # share of the area that a random resized crop keeps
    horizontal_flip: bool = True
    interpolation: Interpolation = "bicubic"  # of the training crop; evaluation uses the model's own
    balance_domains: bool = True  # every batch holds the training domains evenly

    # What is measured at the end
    calibrate: bool = True  # temperature and rejection threshold, where source validation has 40 images or more

    # Watching and stopping
    evaluate_every_steps: int | None = None  # on source validation; None: ten times a run, on a sample
    checkpoint_every_steps: int | None = None  # None: four times a run
    log_every_steps: int = 1
    num_loader_workers: int = 0  # processes that decode images; 0: a thread of the trainer

    def __post_init__(self) -> None:
        for name in (*_LISTS, "crop_scale"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _check(self)

    @property
    def trained_classes(self) -> tuple[str, ...]:
        """Folder names of the classes that are trained, sorted."""
        return tuple(name for name in self.class_names if name not in self.unseen_classes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` reads them back to an equal config."""
        return json.loads(json.dumps(asdict(self) | {"class_names": dict(self.class_names)}))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """The config that `to_json` wrote; unknown fields are refused with a suggestion."""
        check_field_names(values)
        # A store may give the keys back in another order; similarity matrices rely on this one.
        names = values.get("class_names")
        ordered = dict(sorted(names.items())) if isinstance(names, Mapping) else names
        missing = [name for name in ("base_model", "class_names") if name not in values]
        if missing:
            raise ConfigInvalid(
                f"{missing[0]} is missing; a config names its base model and classes.", param=missing[0]
            )
        return cls(**{**values, "class_names": ordered})


# The presets differ from the printed equations in these fields and in nothing else.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "authors_code": {
            "margin": 0.3,
            "kl_direction": "target_first",
            "token_temperature": 1.0,
            "similarity_scale": 35.0,
            "keep_diagonal": False,
            "layer_alignment_weight": 10.0,
            "similarity_alignment_weight": 10.0,
            "num_aligned_layers": 5,
            "similarity_over_all_classes": True,
            "attention_over_patches": False,
            "global_batch_size": 108,
            "interpolation": "bilinear",
        },
        # Ours (docs/results.md): no alignment and no average, whose price is a short run's steps.
        "robust": {
            "margin": 0.3,
            "similarity_scale": "calibrated",
            "layer_alignment_weight": 0.0,
            "similarity_alignment_weight": 0.0,
            "frozen_distance_weight": 5.0,
            "averaging": "none",
        },
    }
)

_NO_ALIGNMENT = {
    "layer_alignment_weight": 0.0,
    "similarity_alignment_weight": 0.0,
    "frozen_distance_weight": 0.0,
}
_CROSS_ENTROPY = _NO_ALIGNMENT | {"smoothing": 0.0, "margin": 0.0, "averaging": "none"}
_PROMPTS = _CROSS_ENTROPY | {"trainable": "none", "optimizer": "sgd"}
PROMPT_LEARNERS = ("coop", "cocoop", "dpl")
"""Algorithms that train words before a class's name, through the text tower."""
_WITH_HEADS = ("finetune", "wise_ft", "coral", "miro")
ALGORITHMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "alignclip": {},
        "clipood": _NO_ALIGNMENT | {"smoothing": 0.0, "margin": 0.3},
        "finetune": _CROSS_ENTROPY,
        "label_smoothing": _NO_ALIGNMENT | {"smoothing_target": "uniform", "margin": 0.0, "averaging": "none"},
        "wise_ft": _CROSS_ENTROPY | {"interpolation_weight": 0.5},
        "coral": _CROSS_ENTROPY,
        "miro": _CROSS_ENTROPY | {"weight_decay": 0.0},
        "coop": _PROMPTS | {"learning_rate": 2e-3, "weight_decay": 5e-4, "global_batch_size": 32},
        "cocoop": _PROMPTS | {"learning_rate": 2e-3, "weight_decay": 5e-4, "global_batch_size": 1},
        "dpl": _PROMPTS | {"learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.1},
        "zero_shot": _NO_ALIGNMENT | {"num_steps": 0, "averaging": "none"},
    }
)
"""What each baseline switches off or on: all of them run through the same trainer and losses."""

DATA_FIELDS = frozenset(
    {
        "base_model", "class_names", "algorithm", "preset", "templates", "unseen_classes", "test_domains",
        "validation_fraction", "test_fraction", "num_shots", "seed", "skip_bad_images",
    }
)  # fmt: skip
HYPERPARAMETERS = tuple(f.name for f in fields(FinetuneConfig) if f.name not in DATA_FIELDS)
"""Names that a user may give as hyper-parameters, in the order of the fields."""


def make_config(
    base_model: BaseModel,
    *,
    class_names: Mapping[str, str],
    algorithm: str = "alignclip",
    preset: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
    learning_rate_multiplier: float = 1.0,
) -> FinetuneConfig:
    """The config of a job: paper's defaults < model card < preset < algorithm < what the user gave.

    `preset` None takes the card's, then `paper`. `given` holds field names of `FinetuneConfig`; None values count as
    not given. Raises `ConfigInvalid` for an unknown name or a value that cannot be used.
    """
    preset = preset or base_model.preset or "paper"
    if preset not in base_model.presets and preset not in PRESETS:
        known = sorted({*PRESETS, *base_model.presets})
        raise ConfigInvalid(f"Unknown preset {preset!r}; known: {', '.join(known)}.", param="preset")
    if algorithm not in ALGORITHMS:
        raise ConfigInvalid(f"Unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}.", param="algorithm")
    given = {name: value for name, value in given.items() if value is not None}
    check_field_names(given)
    values: dict[str, Any] = {
        "learning_rate": base_model.learning_rate,
        "num_steps": base_model.num_steps,
        "templates": base_model.templates,
        "frozen_modules": base_model.frozen_modules,
    }
    for layer in (PRESETS.get(preset, {}), base_model.presets.get(preset, {}), ALGORITHMS[algorithm], given):
        values.update(layer)
    values["learning_rate"] = values["learning_rate"] * learning_rate_multiplier
    named = {"base_model": base_model.id, "algorithm": algorithm, "preset": preset}
    ordered = dict(sorted(class_names.items()))
    return FinetuneConfig(**{**values, **named, "class_names": ordered})


def check_field_names(given: Mapping[str, Any]) -> None:
    """Raises `ConfigInvalid` for the first name that is no field, with the nearest one that is."""
    known = [f.name for f in fields(FinetuneConfig)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(HYPERPARAMETERS)}."
            raise ConfigInvalid(f"Unknown hyper-parameter {name!r}{hint}", param=name)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "algorithm": get_args(Algorithm),
    "attention_target": get_args(AttentionTarget),
    "averaging": get_args(Averaging),
    "dv_structure": get_args(DvStructure),
    "kl_direction": get_args(KlDirection),
    "pooling": get_args(Pooling),
    "precision": get_args(Precision),
    "smoothing_target": get_args(SmoothingTarget),
    "trainable": get_args(Trainable),
    "head": get_args(Head),
    "linear_start": get_args(LinearStart),
    "optimizer": get_args(Optimizer),
    "interpolation": get_args(Interpolation),
}
_RANGES: Mapping[str, tuple[float, float]] = {
    "validation_fraction": (0.0, 0.9),
    "test_fraction": (0.0, 0.9),
    "num_shots": (1, 1_000_000),
    "seed": (0, 2**63 - 1),
    "num_steps": (0, 10_000_000),
    "global_batch_size": (1, 1_000_000),
    "learning_rate": (0.0, 1.0),
    "weight_decay": (0.0, 10.0),
    "momentum": (0.0, 1.0),
    "interpolation_weight": (0.0, 1.0),
    "domain_alignment_weight": (0.0, 1e6),
    "feature_distance_weight": (0.0, 1e6),
    "warmup_steps": (0, 10_000_000),
    "gradient_clip": (1e-9, 1e9),
    "trainable_blocks": (1, 1000),
    "lora_rank": (1, 10_000),
    "logit_scale": (1e-3, 1e4),
    "margin": (0.0, 1.0),
    "layer_alignment_weight": (0.0, 1e4),
    "similarity_alignment_weight": (0.0, 1e4),
    "num_aligned_layers": (1, 1000),
    "token_temperature": (1e-6, 1e6),
    "dv_start_block": (0, 1000),
    "smoothing_loss_weight": (0.0, 1e4),
    "smoothing": (0.0, 0.5),
    "frozen_distance_weight": (0.0, 1e4),
    "bma_beta": (1e-3, 1e3),
    "swad_converge": (1, 1000),
    "swad_tolerance": (1, 1000),
    "swad_ratio": (0.0, 1e3),
    "evaluate_every_steps": (1, 10_000_000),
    "checkpoint_every_steps": (1, 10_000_000),
    "log_every_steps": (1, 10_000_000),
    "num_loader_workers": (0, 256),
}  # fmt: skip
_WHOLE_NUMBERS = frozenset(f.name for f in fields(FinetuneConfig) if str(f.type).startswith("int"))
_OPTIONAL = frozenset(f.name for f in fields(FinetuneConfig) if str(f.type).endswith("None"))
_TRUTHS = frozenset(f.name for f in fields(FinetuneConfig) if f.type == "bool")
_LISTS = tuple(f.name for f in fields(FinetuneConfig) if f.type == "tuple[str, ...]")


def _check(config: FinetuneConfig) -> None:
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices and not (getattr(config, name) is None and name in _OPTIONAL):
            raise ConfigInvalid(f"{name} is {getattr(config, name)!r}; it may be {', '.join(choices)}.", param=name)
    for name in _TRUTHS:
        if not isinstance(getattr(config, name), bool):
            raise ConfigInvalid(f"{name} must be true or false, got {getattr(config, name)!r}.", param=name)
    for name in _LISTS:
        _check_list(name, getattr(config, name))
    for name, (lowest, highest) in _RANGES.items():
        _check_range(name, getattr(config, name), lowest, highest)
    if config.warmup_steps >= config.num_steps > 0:
        raise ConfigInvalid(
            f"warmup_steps is {config.warmup_steps}; it must be fewer than num_steps, {config.num_steps}.",
            param="warmup_steps",
        )
    if config.pooling is not None and config.num_steps == 0:
        raise ConfigInvalid(
            "pooling changes what the tower computes; without steps to train, leave it out.", param="pooling"
        )
    _check_what_is_trained(config)
    if config.micro_batch_size != "auto":
        _check_range("micro_batch_size", config.micro_batch_size, *_RANGES["global_batch_size"])
    if config.similarity_scale != "calibrated":
        _check_range("similarity_scale", config.similarity_scale, 0.0, 1e4)
    _check_crop_scale(config.crop_scale)
    _check_templates(config.templates)
    _check_class_names(config)


def _check_what_is_trained(config: FinetuneConfig) -> None:
    if config.head == "linear" and config.algorithm not in _WITH_HEADS:
        raise ConfigInvalid(
            f"head is 'linear', but {config.algorithm} needs the class texts; {', '.join(_WITH_HEADS)} can have one.",
            param="head",
        )
    learns_prompts = config.algorithm in PROMPT_LEARNERS
    if learns_prompts and config.trainable != "none":
        raise ConfigInvalid(
            f"{config.algorithm} trains prompts and no tower; its trainable is 'none'.", param="trainable"
        )
    if config.trainable == "none" and config.num_steps and not learns_prompts and config.head == "text":
        raise ConfigInvalid(
            "trainable is 'none', which leaves nothing to train with the text head; head linear would be trained.",
            param="trainable",
        )


def _check_list(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigInvalid(f"{name} must be a list of strings, got {value!r}.", param=name)


def _check_range(name: str, value: object, lowest: float, highest: float) -> None:
    if value is None and name in _OPTIONAL:
        return
    if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE_NUMBERS else (int, float)):
        kind = "a whole number" if name in _WHOLE_NUMBERS else "a number"
        raise ConfigInvalid(f"{name} must be {kind}, got {value!r}.", param=name)
    if not lowest <= value <= highest:
        raise ConfigInvalid(f"{name} is {value}; it must lie between {lowest:g} and {highest:g}.", param=name)


def _check_crop_scale(value: object) -> None:
    shares = value if isinstance(value, tuple) and all(isinstance(share, (int, float)) for share in value) else ()
    if len(shares) != 2 or not 0 < shares[0] <= shares[1] <= 1:
        raise ConfigInvalid(f"crop_scale must be two shares 0 < low <= high <= 1, got {value!r}.", param="crop_scale")


def _check_templates(templates: tuple[str, ...]) -> None:
    if not templates:
        raise ConfigInvalid("templates is empty; give at least one, such as 'a photo of a {}.'.", param="templates")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigInvalid(f"Template {template!r} must hold {{}} exactly once.", param="templates")


def _check_class_names(config: FinetuneConfig) -> None:
    names = config.class_names
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for item in names.items() for name in item):
        raise ConfigInvalid("class_names must be a map from folder name to display name.", param="class_names")
    for name in config.unseen_classes:
        if name not in names:
            raise ConfigInvalid(f"unseen_classes names {name!r}, which is no class folder.", param="unseen_classes")
    if config.unseen_classes and len(config.trained_classes) < 2:
        raise ConfigInvalid("unseen_classes leaves fewer than two classes to train.", param="unseen_classes")

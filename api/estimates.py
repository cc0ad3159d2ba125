"""What a fine-tune will take, from its config and from what earlier ones took. No GPU is touched.

Peak memory is counted, not measured. In 32 bits: the tower; of what is trained a gradient and two moments of the
optimizer; every copy that the average holds (SWAD's are many); weights that are computed from what is trained; and the
frozen towers that some baselines have beside them (MIRO's copy, the text tower of learned prompts).
Beside them the activations of one micro batch, in the precision of the forward pass: `auto` counts as a GPU's, 16 bits.
Learned prompts are activations of the text tower: one for each class, with cocoop for each class and image (those of
dpl, for each class and domain of a batch, count once). What is learned beside a tower is small, and left out.
A device's own libraries need some hundred MB more.
"""

from __future__ import annotations

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import TrainingSize
from alignclip_core.method.averaging import max_copies
from alignclip_store.speed import STARTUP_SECONDS, Speed

FLOAT_BYTES = 4
HALF_BYTES = 2
MOMENTS = 2  # of AdamW
FORWARD_SHARE = 1 / 3  # of the time of an image's step: the pass back takes twice that of the pass forward
ALIGNED_SHARE = 1.3  # the D-V branch and the teacher's attention beside the main branch


def train_seconds(config: FinetuneConfig, speed: Speed, num_test_images: int = 0) -> float:
    """Seconds of one run from claim to stored model; evaluations on its own dataset are left out.

    `num_test_images`: of other datasets, each seen before the training and after it.
    """
    num_looks = 1 if config.num_steps == 0 else 2
    num_images = config.num_steps * config.global_batch_size + num_looks * FORWARD_SHARE * num_test_images
    return STARTUP_SECONDS + num_images / speed.images_per_second


def peak_memory_bytes(config: FinetuneConfig, size: TrainingSize) -> int:
    """Memory of a training device at its highest, as the module's docstring counts it."""
    if config.num_steps == 0:
        return FLOAT_BYTES * size.num_parameters
    copies = max_copies(config) + size.is_computed
    weights = size.num_parameters + size.num_frozen + (1 + MOMENTS) * size.num_trained + copies * size.num_changed
    share = ALIGNED_SHARE if config.layer_alignment_weight or config.similarity_alignment_weight else 1.0
    num_images = config.global_batch_size  # micro batches that are chosen on the device ("auto") only make it less
    if config.micro_batch_size != "auto":
        num_images = min(num_images, config.micro_batch_size)
    precision_bytes = FLOAT_BYTES if config.precision == "fp32" else HALF_BYTES
    activations = num_images * size.num_activations * share
    activations += size.num_prompt_activations * (num_images if config.algorithm == "cocoop" else 1)
    return int(FLOAT_BYTES * weights + precision_bytes * activations)


def disk_bytes(config: FinetuneConfig, size: TrainingSize, *, num_checkpoints: int) -> int:
    """What the artifact store takes for resume points and model; the dataset comes on top, once per running job."""
    if config.num_steps == 0:
        return FLOAT_BYTES * size.num_parameters
    state = (1 + MOMENTS) * size.num_trained + max_copies(config) * size.num_changed
    checkpoint = size.num_parameters + state
    return FLOAT_BYTES * (num_checkpoints * checkpoint + size.num_parameters)

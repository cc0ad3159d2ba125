"""One of two ranks: trains in what `test_trainer_ranks.py` does to one of them, and prints as JSON how each ended.

Arguments: run directory, folder of base models, meeting point.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from alignclip_core.base_models import find_base_model
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.encoder import build_image_encoder
from alignclip_core.errors import AlignClipError
from alignclip_core.images import DEFAULT_LIMITS
from alignclip_core.ranks import join_ranks
from alignclip_core.run_dir import Record, RunDir
from alignclip_core.trainer import Trainer
from alignclip_core.training_run import read_similarity

IN_THE_MIDDLE = "visual.transformer.resblocks.4.ln_1.weight"  # later blocks have their gradients when it gets its own
SECOND = 1

torch.set_num_threads(1)
rank = int(os.environ["RANK"])
run_dir, models_dir = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
config = run_dir.read_config()
base_model = find_base_model(config.base_model, models_dir)
similarity = read_similarity(run_dir, config, base_model)
split = split_dataset(read_layout(list_folder(run_dir.dataset)), config)
ranks = join_ranks(rank, 2, rank, sys.argv[3])


def make_trainer(**fields) -> Trainer:
    encoder, changed = build_image_encoder(base_model), replace(config, **fields)
    return Trainer(encoder, changed, similarity, split, inputs=run_dir.inputs, limits=DEFAULT_LIMITS, ranks=ranks)


def on_the_second_rank(trainer: Trainer, is_hit: Callable[[int], bool], hit: Callable) -> None:
    """Call `hit` with the algorithm's images, on the second rank, in the n-th forward pass if `is_hit(n)`."""
    passes: list[int] = []

    def count(module, inputs) -> None:
        passes.append(1)
        if rank == SECOND and is_hit(len(passes)):
            hit(inputs[0])

    trainer._algorithm.register_forward_pre_hook(count)


def out_of_memory(*_) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")


def out_of_memory_in_backward(trainer: Trainer) -> Callable:
    """For `on_the_second_rank`: the memory of this pass ends in the midst of its backward half."""

    def arm(images: torch.Tensor) -> None:
        def fail(gradient: torch.Tensor) -> None:
            handle.remove()
            out_of_memory()

        handle = trainer._parameters[IN_THE_MIDDLE].register_hook(fail)

    return arm


def train(trainer: Trainer) -> list[Record]:
    return list(trainer.fit())


def digest(trainer: Trainer) -> str:
    weights = trainer.finished_weights()
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


def error_of(run: Callable, *arguments) -> str:
    try:
        run(*arguments)
    except AlignClipError as error:
        return f"{error.code}: {error.message}"
    return "none"


def disturbed_in_step_three() -> dict:
    trainer = make_trainer()
    on_the_second_rank(trainer, lambda n: n == 3, out_of_memory_in_backward(trainer))
    records = train(trainer)
    events = [(record.step, record.values["message"]) for record in records if record.kind == "event"]
    return {"events": events, "weights": digest(trainer)}


def smaller_from_step_three() -> dict:
    trainer = make_trainer()
    for record in trainer.fit():
        if record.step == 2:
            trainer._gradients.micro_batch_size = 2
    return {"weights": digest(trainer)}


def room_for_none() -> str:
    trainer = make_trainer()
    on_the_second_rank(trainer, lambda n: True, out_of_memory)
    return error_of(train, trainer)


def probed() -> int:
    trainer = make_trainer()
    on_the_second_rank(trainer, lambda n: n == 1, out_of_memory)
    trainer._gradients.probe((3, 32, 32), torch.device("cpu"))
    return trainer._gradients.micro_batch_size


def not_finite_in_step_two() -> str:
    trainer = make_trainer(micro_batch_size=2)  # the first of two micro batches
    on_the_second_rank(trainer, lambda n: n == 3, lambda images: images.fill_(math.nan))
    return error_of(train, trainer)


SCENES = (disturbed_in_step_three, smaller_from_step_three, room_for_none, probed, not_finite_in_step_two)
print(json.dumps({scene.__name__: scene() for scene in SCENES}), flush=True)
os._exit(0)  # gloo's threads now and then abort a process that tears itself down

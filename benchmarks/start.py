"""From starting the trainer to its first step, beyond what importing torch and loading the weights take.

ViT-B/16 with random weights in a run directory whose similarity matrix is there, as the service leaves it. No image is
held out: the zero-shot evaluation before the first step costs a forward pass for each and is work, not delay.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, find_base_model
from alignclip_core.config import make_config
from alignclip_core.encoder import build_text_encoder
from alignclip_core.prompts import class_similarity_of
from alignclip_core.run_dir import Record, RunDir
from benchmarks.rows import Row, machine

ARCHITECTURE = "ViT-B-16"
CLASS_NAMES = {name: name for name in ("cat", "cow", "dog", "horse")}
IMAGES_A_CLASS = 50
NUM_ROUNDS = 3
POLL_SECONDS = 0.01
LOAD = "import sys; from pathlib import Path; from alignclip_core.base_models import find_base_model; "
LOAD += "from alignclip_core.encoder import build_image_encoder; "
LOAD += "build_image_encoder(find_base_model('benchmark', Path(sys.argv[1]))); print(flush=True)"


def measure() -> list[Row]:
    """Seconds, the median over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        models_dir = Path(folder, "models")
        _make_base_model(models_dir / "benchmark")
        rounds = []
        for number in range(NUM_ROUNDS):
            run_dir = _make_run(Path(folder, f"run-{number}"), models_dir)
            load_seconds = _seconds_to_load(models_dir)
            rounds.append(_seconds_to_first_step(run_dir, models_dir) - load_seconds)
    detail = f"{ARCHITECTURE}, {len(CLASS_NAMES) * IMAGES_A_CLASS} images, median of {NUM_ROUNDS} starts; {machine()}"
    return [Row("trainer_start_to_first_step_seconds", statistics.median(rounds), "s", detail)]


def _seconds_to_load(models_dir: Path) -> float:
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", LOAD, str(models_dir)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - started


def _seconds_to_first_step(run_dir: RunDir, models_dir: Path) -> float:
    """Until the first step begins: when it is told, less what it took."""
    command = [sys.executable, "-m", "alignclip_core.train", str(run_dir.path), "--models-dir", str(models_dir)]
    started = time.perf_counter()
    trainer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (first := _first_step(run_dir)):
            if trainer.poll() is not None:
                raise RuntimeError(f"the trainer ended with {trainer.returncode}: {run_dir.read_error()}")
            time.sleep(POLL_SECONDS)
        batch_size = run_dir.read_config().global_batch_size
        return time.perf_counter() - started - batch_size / first.values["images_per_second"]
    finally:
        trainer.kill()
        trainer.wait()


def _first_step(run_dir: RunDir) -> Record | None:
    if not run_dir.metrics_file.is_file():
        return None
    return next((record for record in run_dir.read_records()[0] if record.kind == "train"), None)


def _make_base_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = open_clip.get_model_config(ARCHITECTURE)
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def _make_run(folder: Path, models_dir: Path) -> RunDir:
    run_dir = RunDir(folder)
    random = np.random.default_rng(0)
    for name in CLASS_NAMES:
        (run_dir.dataset / name).mkdir(parents=True)
        for number in range(IMAGES_A_CLASS):
            pixels = random.integers(0, 256, (375, 500, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(run_dir.dataset / name / f"{number}.jpg")
    base_model = find_base_model("benchmark", models_dir)
    given = {"num_steps": 2, "global_batch_size": 4, "validation_fraction": 0.0}
    config = make_config(base_model, class_names=CLASS_NAMES, given=given)
    run_dir.write_config(config)
    names = tuple(CLASS_NAMES)
    class_similarity_of(build_text_encoder(base_model), names, config.templates, False).save(run_dir.similarity_file)
    return run_dir

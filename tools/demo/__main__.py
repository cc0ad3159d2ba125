"""`make demo`: the whole service on real pictures, from nothing to a table of what was gained.

    python -m tools.demo [FOLDER]

It draws the pictures, starts `alignclip serve` in a folder of its own (.demo), uploads the pictures, fine-tunes the
starter on one style and two thirds of the classes, and asks the paper's three questions: how good is the model in a new
style, on classes that it was never trained on, and on both at once?
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from alignclip_core.dataset.layout import list_folder
from alignclip_store.job_status import FINISHED, JobStatus
from cli.archive import FolderArchive
from cli.classify import batches
from cli.client import ServiceClient
from cli.console import err, out
from cli.errors import CliError
from cli.progress import TrainingProgress
from cli.watch import Watcher
from tools.demo.classes import CLASS_NAMES, UNSEEN_CLASSES
from tools.demo.pictures import NEW_STYLE, Picture, all_pictures, draw_pictures
from tools.demo.report import figures_table, picture_as_text, predictions_table
from tools.demo.service import running_service

HOME = Path(__file__).parents[2] / ".demo"
BASE_MODEL = "starter"
JOB = {
    "model": BASE_MODEL,
    "class_names": CLASS_NAMES,
    "test_domains": [NEW_STYLE],
    "unseen_classes": list(UNSEEN_CLASSES),
    "validation_fraction": 0.25,
    "num_steps": 80,  # as good on source validation as the 150 of the starter's card: there are few pictures
    "evaluate_every_steps": 40,
    "checkpoint_every_steps": 80,
    "suffix": "demo",
}
PICTURES = "pictures"  # below the folder
SHOWN = Picture(NEW_STYLE, "musical_instrument", "🎸")
NUM_SHOWN_LABELS = 3


def main(home: Path) -> int:
    """Run the demo in that folder; 0 when the table was printed."""
    signal.signal(signal.SIGTERM, _stop)
    started_at = time.monotonic()
    try:
        pictures = draw(home)
        err.print("Starting the service: broker, database, API, worker, reaper ...")
        with running_service(home) as client:
            job = fine_tune(client, pictures)
            out.print(figures_table(job))
            classify_new_words(client, job, pictures)
            show_one_picture(client, job, pictures)
        tell_how_to_go_on(job, home)
    except CliError as error:
        err.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        err.print("demo: stopped; no process is left.")
        return 130
    err.print(f"The demo took {(time.monotonic() - started_at) / 60:.1f} minutes.")
    return 0


def draw(home: Path) -> Path:
    """The folder of the pictures, from the packages that carry them."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = home / PICTURES
    columns = (TextColumn("Drawing pictures"), BarColumn(), MofNCompleteColumn())
    pictures = all_pictures()
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("", total=len(pictures))
        draw_pictures(folder, pictures, on_progress=lambda num_drawn: progress.update(task, completed=num_drawn))
        progress.update(task, completed=len(pictures))
    return folder


def fine_tune(client: ServiceClient, pictures: Path) -> dict[str, Any]:
    """Upload, create the job, watch it to its end; the succeeded job. It is cancelled when the demo is stopped."""
    archive = FolderArchive(pictures, [path for path in list_folder(pictures) if not path.startswith(".")], _ignore)
    file = client.create_file("emoji.zip", archive)
    err.print(f"Uploaded {file['filename']}: {file['bytes'] / 2**20:.1f} MiB.", markup=False)
    job = client.create_job({"training_file": file["id"], **JOB})
    err.print(f"Created {job['id']}: {job['algorithm']}, preset {job['preset']}.", markup=False)
    try:
        with TrainingProgress(err) as progress:
            job = Watcher(client, job["id"], progress).watch()
    finally:
        if job["status"] not in FINISHED:
            client.change_job(job["id"], "cancel")
    if job["status"] != JobStatus.SUCCEEDED:
        raise CliError(f"The job {job['status']}: {(job['error'] or {}).get('message')}")
    return job


def classify_new_words(client: ServiceClient, job: dict[str, Any], pictures: Path) -> None:
    """Classify over HTTP what was held out twice, new style and new classes, with labels that were never trained."""
    asked = [each for each in all_pictures() if each.domain == NEW_STYLE and each.class_name in UNSEEN_CLASSES]
    labels = [CLASS_NAMES[name] for name in UNSEEN_CLASSES]
    num_right = 0
    paths = [pictures / picture.path for picture in asked]
    for batch in batches(paths):
        images = [(path.name, content) for path, content in batch]
        answers = client.classify(job["fine_tuned_model"], images, labels=labels, top_k=1)
        num_right += sum(
            answer["predictions"][0]["label"] == CLASS_NAMES[path.parent.name]
            for answer, (path, _) in zip(answers, batch, strict=True)
        )
    out.print(
        f"Asked over HTTP with labels that were never trained, {num_right} of {len(paths)} pictures in the new style "
        f"are right ({num_right / len(paths):.1%})."
    )


def show_one_picture(client: ServiceClient, job: dict[str, Any], pictures: Path) -> None:
    """One picture in the new style and what both models say of it, among all classes."""
    png = (pictures / SHOWN.path).read_bytes()
    models = {"zero-shot": BASE_MODEL, "AlignCLIP": job["fine_tuned_model"]}
    labels = list(CLASS_NAMES.values())
    predictions = {
        name: client.classify(model, [(SHOWN.path, png)], labels=labels, top_k=NUM_SHOWN_LABELS)[0]["predictions"]
        for name, model in models.items()
    }
    out.print(f"\nOne picture, {SHOWN.path}:", markup=False)
    out.print(picture_as_text(png))
    out.print(predictions_table(predictions))


def tell_how_to_go_on(job: dict[str, Any], home: Path) -> None:
    """Where the model is and what to do with it."""
    model, folder = job["fine_tuned_model"], _short(home)
    alignclip = f"ALIGNCLIP_HOME={folder} {_short(Path(sys.executable).parent)}/alignclip"
    pictures = f"{folder}/{PICTURES}"
    lines = (
        f"\nThe model is kept in {folder}. To use it, start the service on that folder again:",
        f"  {alignclip} serve",
        "and classify any pictures with any labels from another terminal:",
        f"  {alignclip} classify {model} {pictures}/{NEW_STYLE}/cat --labels cat,bird,boat",
        f"  curl http://127.0.0.1:8000/v1/models/{model}/classify -F image=@{pictures}/{SHOWN.path} \\",
        f'    -H "Authorization: Bearer $(cat {folder}/api_key)"',
    )
    out.print("\n".join(lines), markup=False)


def _short(path: Path) -> str:
    """Relative to where the demo was called, if that is shorter."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _ignore(num_bytes: int) -> None:
    pass


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the demo as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else HOME))

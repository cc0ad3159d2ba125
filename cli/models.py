"""`alignclip models`: what the service can classify with and fine-tune; `models pull` fetches a base model."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.table import Table

from alignclip_core.base_models import find_base_model, list_base_models
from cli.client import connect
from cli.console import out
from cli.environment import load_settings
from cli.errors import CliError

app = typer.Typer(help="List models, or pull a base model from a hub.", invoke_without_command=True)

# A process of its own: it loads torch, which this one may not.
PULL_CODE = """
import sys
from pathlib import Path
from alignclip_core.base_models import list_base_models
from alignclip_core.encoder import pull_model
from alignclip_core.errors import AlignClipError

model_id, models_dir = sys.argv[1], Path(sys.argv[2])
(model,) = (model for model in list_base_models(models_dir) if model.id == model_id)
try:
    pull_model(model, models_dir, print)
except AlignClipError as error:
    sys.exit(str(error))
"""


@app.callback()
def list_models(context: typer.Context) -> None:
    """List the models of the service: base models on its disk and tuned ones."""
    if context.invoked_subcommand:
        return
    with connect() as client:
        found = client.list_models()
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True, overflow="fold")
    for heading in ("base", "created", "classes", "description"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for model in found:
        created = datetime.fromtimestamp(model["created"]).astimezone().strftime("%Y-%m-%d %H:%M")
        classes = str(len(model["class_names"])) if model["class_names"] else "any labels"
        table.add_row(model["id"], model["base_model"] or "", created, classes, model["description"])
    out.print(table)


@app.command()
def pull(model_id: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a base model.")]) -> None:
    """Fetch a base model from a hub into this machine's models folder."""
    settings = load_settings()
    models_dir = settings.models_location
    known = {model.id: model for model in list_base_models(models_dir)}
    if model_id not in known:
        find_base_model(model_id, models_dir)  # raises with the nearest id
    if known[model_id].is_local:
        out.print(f"{model_id} is on this machine: {known[model_id].folder}", markup=False)
        return
    models_dir.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run([sys.executable, "-u", "-P", "-c", PULL_CODE, model_id, str(models_dir)], check=False)
    if fetched.returncode != 0:
        raise CliError(
            f"{model_id} was not fetched. A model hub has to be reachable (HF_ENDPOINT names a mirror); or put the"
            f" folder, or what `alignclip convert` makes of a checkpoint, at {models_dir / model_id}."
        )
    out.print(f"{model_id} is ready: {models_dir / model_id}", markup=False)

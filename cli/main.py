"""alignclip: the service from one command, and its client."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from alignclip_core.errors import AlignClipError
from alignclip_store.errors import StoreError
from cli import dataset, keys, models
from cli.classify import classify
from cli.classify_dataset import classify_dataset
from cli.doctor import doctor
from cli.environment import load_settings
from cli.errors import CliError
from cli.evaluate import evaluate
from cli.finished import convert, explain, export, interpolate
from cli.jobs import cancel, jobs, pause, resume, retry
from cli.serve import migrate_database, serve
from cli.submit import submit
from cli.train import train
from cli.watch import watch


class Commands(TyperGroup):
    """Shows every error that a command foresees as one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CliError, AlignClipError, StoreError) as error:
            typer.echo(f"alignclip: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=Commands,
    help="Fine-tune CLIP without losing other domains and untrained classes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def migrate() -> None:
    """Bring the database to this version's schema; `serve` does it by itself."""
    migrate_database(load_settings())


for command in (
    serve, submit, watch, jobs, cancel, pause, resume, retry, classify, classify_dataset, interpolate, export, explain,
    train, evaluate, convert, doctor, migrate,
):  # fmt: skip
    app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(dataset.app, name="dataset")
app.add_typer(keys.app, name="keys")

if __name__ == "__main__":
    app()

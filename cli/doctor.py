"""`alignclip doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.markup import escape

from cli import checks
from cli.checks import Finding
from cli.console import out
from cli.environment import load_settings
from cli.errors import CliError


def doctor(
    port: Annotated[int, typer.Option(help="Port that `alignclip serve` shall use.")] = 8000,
) -> None:
    """Say what is missing for the service, and what to do. Exit code 1 when something needed is missing."""
    settings = load_settings()
    looked_at: Sequence[tuple[str, Callable[[], Finding]]] = (
        ("Python", checks.check_python),
        ("PyTorch", checks.check_torch),
        ("starter model", checks.check_starter),
        ("base models", lambda: checks.check_base_models(settings.models_location)),
        ("database", lambda: checks.check_database(settings)),
        ("broker", lambda: checks.check_broker(settings)),
        ("artifacts", lambda: checks.check_artifacts(settings)),
        ("disk", lambda: checks.check_disk(settings.home_dir)),
        ("API key", lambda: checks.check_api_key(settings)),
        ("isolation", lambda: checks.check_isolation(settings)),
        ("port", lambda: checks.check_port(settings.home_dir, port)),
    )
    num_missing = 0
    for name, check in looked_at:
        finding = check()
        num_missing += finding.state == "missing"
        show(name, finding)
    if num_missing:
        raise CliError(f"{num_missing} of {len(looked_at)} checks found something missing.")


def show(name: str, finding: Finding) -> None:
    """One line, and the remedy on a second one."""
    mark = {"ok": "[green]ok[/]     ", "note": "[yellow]note[/]   ", "missing": "[red]missing[/]"}[finding.state]
    out.print(f"{mark} {name:<14} {escape(finding.text)}")
    if finding.remedy:
        out.print(f"{'':>22} {escape(finding.remedy)}")

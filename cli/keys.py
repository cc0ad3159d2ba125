"""`alignclip keys`: make, list, rotate and revoke API keys.

On the database, not over the API: an operator who has lost every key, or the only admin key, can still help himself.
Run it where the service's settings are (the same ALIGNCLIP_HOME, or the same database and pepper).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.console import err, out
from cli.environment import load_settings

if TYPE_CHECKING:
    from alignclip_store.keys import Scope

app = typer.Typer(help="Make, list, rotate and revoke API keys, on the service's own database.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="For people, to know the key again.")],
    scope: Annotated[list[str] | None, typer.Option(help="infer (unset), train, admin; once for each.")] = None,
    owner: Annotated[str, typer.Option(help="Whose jobs, files and models the key sees and makes.")] = "default",
    days: Annotated[float | None, typer.Option(min=0.001, max=3660, help="How long it is good; unset: always.")] = None,
) -> None:
    """Make a key and show it this once."""
    from cli import key_rows  # imported here: it loads SQLAlchemy, which no client command needs

    scopes: list[Scope] = list(scope or ["infer"])  # type: ignore[arg-type]  # checked where the key is made
    life = timedelta(days=days) if days is not None else None
    row, text = key_rows.create_key(load_settings(), name=name, scopes=scopes, owner=owner, life=life)
    err.print(f"Key {row.id} of {row.owner}, scopes {', '.join(row.scopes)}; shown this once:", markup=False)
    out.print(text, markup=False)


@app.command(name="list")
def list_all(owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None) -> None:
    """List the keys, the newest first."""
    from cli import key_rows  # imported here: it loads SQLAlchemy

    found = key_rows.list_keys(load_settings(), owner)
    if not found:
        out.print("There are no keys beside the first one; make one with: alignclip keys create NAME --scope infer")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "owner", "name", "begins with", "scopes", "state", "last used"):
        table.add_column(heading, no_wrap=heading in ("key", "begins with"), overflow="fold")
    for row in found:
        state = _state(row.revoked_at, row.expires_at)
        table.add_row(row.id, row.owner, row.name, row.prefix, ", ".join(row.scopes), state, _day(row.last_used_at))
    out.print(table)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as `keys list` shows it.")],
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="How long the old one stays good.")] = 0,
) -> None:
    """Make a key with the same rights, show it this once, and end the old one."""
    from cli import key_rows  # imported here: it loads SQLAlchemy

    row, text = key_rows.rotate_key(load_settings(), key_id, timedelta(hours=overlap_hours))
    err.print(f"Key {row.id} takes the place of {key_id}; shown this once:", markup=False)
    out.print(text, markup=False)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as `keys list` shows it.")],
) -> None:
    """End a key: no request with it succeeds any more."""
    from cli import key_rows  # imported here: it loads SQLAlchemy

    key_rows.revoke_key(load_settings(), key_id)
    out.print(f"{key_id} is revoked.", markup=False)


def _state(revoked_at: datetime | None, expires_at: datetime | None) -> str:
    if revoked_at is not None:
        return f"revoked {_day(revoked_at)}"
    if expires_at is None:
        return "good"
    return f"{'expired' if expires_at <= datetime.now(UTC) else 'good until'} {_day(expires_at)}"


def _day(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M") if moment is not None else "never"

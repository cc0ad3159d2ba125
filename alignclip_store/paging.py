"""Pages of a list: by time and id, so that a page never depends on what was added since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, literal, select, tuple_
from sqlalchemy.orm import Session

from alignclip_store.tables import ApiKey, Checkpoint, DatasetReport, Evaluation, File, Job, Moment

Row = TypeVar("Row", ApiKey, Checkpoint, DatasetReport, Evaluation, File, Job)


def list_page(
    session: Session,
    table: type[Row],
    conditions: Sequence[ColumnElement[bool]],
    *,
    after: Row | None,
    limit: int,
    newest_first: bool = True,
) -> tuple[list[Row], bool]:
    """Up to `limit` rows behind the row `after`, and whether more follow."""
    place = tuple_(table.created_at, table.id)
    order = [table.created_at.desc(), table.id.desc()] if newest_first else [table.created_at, table.id]
    statement = select(table).where(*conditions).order_by(*order).limit(limit + 1)
    if after is not None:
        mark = tuple_(literal(after.created_at, Moment()), literal(after.id))
        statement = statement.where(place < mark if newest_first else place > mark)
    rows = list(session.scalars(statement))
    return rows[:limit], len(rows) > limit

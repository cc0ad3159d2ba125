"""Reports on datasets: kept as they were made, for who asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import DatasetReportNotFound
from alignclip_store.ids import new_id
from alignclip_store.paging import list_page
from alignclip_store.tables import DatasetReport


def create_report(session: Session, owner: str, *, reference: str, content: Mapping[str, Any]) -> DatasetReport:
    """The report's row."""
    report = DatasetReport(
        id=new_id("dataset"),
        owner=owner,
        created_at=database_now(session),
        reference=reference,
        content=dict(content),
    )
    session.add(report)
    session.flush()
    return report


def get_report(session: Session, owner: str, report_id: str, *, param: str | None = None) -> DatasetReport:
    """The owner's report. Raises `DatasetReportNotFound`, also for another owner's."""
    wanted = select(DatasetReport).where(DatasetReport.id == report_id, DatasetReport.owner == owner)
    report = session.scalar(wanted)
    if report is None:
        raise DatasetReportNotFound(f"No report on a dataset {report_id!r}.", param=param)
    return report


def list_reports(
    session: Session, owner: str, *, after: str | None = None, limit: int = 20
) -> tuple[list[DatasetReport], bool]:
    """Up to `limit` behind the report `after`, newest first, and whether more follow."""
    mark = get_report(session, owner, after, param="after") if after is not None else None
    return list_page(session, DatasetReport, [DatasetReport.owner == owner], after=mark, limit=limit)


def delete_report(session: Session, owner: str, report_id: str) -> None:
    """Raises `DatasetReportNotFound`."""
    session.delete(get_report(session, owner, report_id))

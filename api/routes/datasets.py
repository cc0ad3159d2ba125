"""Datasets: what is in one, and what is wrong with it, before a GPU is touched."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from alignclip_store import reports
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from api.answers import DeletedAnswer, ListAnswer, page
from api.dataset_reports import DatasetAnswer, DatasetRequest, make_report
from api.dependencies import After, CallerDep, Limit, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def report_on_dataset(body: DatasetRequest, caller: CallerDep, resources: ResourcesDep) -> DatasetAnswer:
    """Counts, sizes, broken images, copies, doubtful labels and names that are too alike; the answer is the report.

    It takes as long as fetching and decoding the images does, within the service's limits: `num_checked` and
    `num_compared` tell what was looked at, and a dataset of too many bytes is refused. One is made at a time; others
    are asked to come again (429).
    """
    return DatasetAnswer.of(make_report(resources, caller, body))


@router.get("")
def list_datasets(
    owner: OwnerDep, resources: ResourcesDep, after: After = None, limit: Limit = 20
) -> ListAnswer[DatasetAnswer]:
    """The owner's reports, newest first."""
    with reading(resources.engine) as session:
        rows, has_more = reports.list_reports(session, owner, after=after, limit=limit)
        answers = [DatasetAnswer.of(row) for row in rows]
    return page(answers, has_more)


@router.get("/{dataset_id}")
def retrieve_dataset(dataset_id: str, owner: OwnerDep, resources: ResourcesDep) -> DatasetAnswer:
    """A report as it was made."""
    with reading(resources.engine) as session:
        return DatasetAnswer.of(reports.get_report(session, owner, dataset_id))


@router.delete("/{dataset_id}")
def delete_dataset(dataset_id: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Remove the report; the dataset itself stays where it is."""
    with transaction(resources.engine) as session:
        reports.delete_report(session, caller.owner, dataset_id)
        record_change(session, caller.actor, "dataset.delete", dataset_id)
    return DeletedAnswer(id=dataset_id, object="dataset")

"""Evaluations: the paper's protocols on a dataset, as a grid of jobs with one result table."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from alignclip_store import evaluations
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.queue import wake
from api.answers import ListAnswer, page
from api.dependencies import After, CallerDep, Limit, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.evaluations import EvaluationAnswer, EvaluationRequest, submit_evaluation

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_evaluation(body: EvaluationRequest, caller: CallerDep, resources: ResourcesDep) -> EvaluationAnswer:
    """Queue a job for each method, seed and target; all of them, or none where one cannot be or too many would wait.

    The jobs are ordinary ones: `metadata[evaluation]` names this one.
    """
    evaluation = submit_evaluation(resources, caller, body)
    return retrieve_evaluation(evaluation.id, caller.owner, resources)


@router.get("")
def list_evaluations(
    owner: OwnerDep, resources: ResourcesDep, after: After = None, limit: Limit = 20
) -> ListAnswer[EvaluationAnswer]:
    """The owner's evaluations, newest first."""
    with reading(resources.engine) as session:
        rows, has_more = evaluations.list_evaluations(session, owner, after=after, limit=limit)
        answers = [EvaluationAnswer.of(row, evaluations.jobs_of(session, row)) for row in rows]
    return page(answers, has_more)


@router.get("/{evaluation_id}")
def retrieve_evaluation(evaluation_id: str, owner: OwnerDep, resources: ResourcesDep) -> EvaluationAnswer:
    """One evaluation, with its tables as far as its jobs have come."""
    with reading(resources.engine) as session:
        row = evaluations.get_evaluation(session, owner, evaluation_id)
        return EvaluationAnswer.of(row, evaluations.jobs_of(session, row))


@router.post("/{evaluation_id}/cancel")
def cancel_evaluation(evaluation_id: str, caller: CallerDep, resources: ResourcesDep) -> EvaluationAnswer:
    """Cancel those of its jobs that have not ended; what is measured stays. Asking again changes nothing."""
    with transaction(resources.engine) as session:
        row, num_going = evaluations.cancel_evaluation(session, caller.owner, evaluation_id)
        if num_going:
            after = {"num_jobs_cancelled": num_going}
            record_change(session, caller.actor, "evaluation.cancel", evaluation_id, after=after)
        return EvaluationAnswer.of(row, evaluations.jobs_of(session, row))


@router.post("/{evaluation_id}/retry")
def retry_evaluation(evaluation_id: str, caller: CallerDep, resources: ResourcesDep) -> EvaluationAnswer:
    """Queue those of its jobs again that failed or were cancelled; each goes on from its last checkpoint.

    What is measured stays. Asking again changes nothing.
    """
    with transaction(resources.engine) as session:
        row, job_ids = evaluations.retry_evaluation(session, caller.owner, evaluation_id, resources.settings)
        if job_ids:
            record_change(session, caller.actor, "evaluation.retry", evaluation_id, after={"num_jobs": len(job_ids)})
        answer = EvaluationAnswer.of(row, evaluations.jobs_of(session, row))
    for job_id in job_ids:
        wake(resources.queue, job_id)
    return answer

"""The outbox: every end of a job is told once to everyone who wants it, whoever ended the job."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.errors import TooManyWebhooks, WebhookNotFound
from alignclip_store.jobs import request_cancel
from alignclip_store.pausing import retry_job
from alignclip_store.runs import NewModel, finish, reap, start_training
from alignclip_store.settings import Settings
from alignclip_store.tables import Delivery, Job
from alignclip_store.webhooks import (
    DEFAULT_EVENT_TYPES,
    MAX_WEBHOOKS,
    RETRY_SECONDS,
    create_webhook,
    delete_webhook,
    list_deliveries,
    list_webhooks,
    record_delivered,
    record_undelivered,
    rotate_secret,
    take_due_deliveries,
)

URL = "https://example.com/hook"
ERROR = {"code": "broken", "message": "It broke.", "param": None}


@pytest.fixture
def act(engine: Engine) -> Callable[..., object]:
    """Calls a function of the store in a transaction of its own."""

    def call(function: Callable[..., object], *arguments: object, **named: object) -> object:
        with transaction(engine) as session:
            return function(session, *arguments, **named)

    return call


def _told(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        rows = session.execute(select(Delivery.event_type, Delivery.job_id).order_by(Delivery.created_at))
        return [(event_type.rpartition(".")[2], job_id) for event_type, job_id in rows]


def test_every_way_in_which_a_job_ends_is_told(
    act, engine, new_job, claim, make_settings: Callable[..., Settings]
) -> None:
    act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    waiting = new_job()
    act(request_cancel, "ada", waiting.id)
    succeeded, ours = new_job(), claim()
    act(start_training, ours)
    act(finish, ours, "succeeded", result={}, model=NewModel(artifact_uri="artifact:m", manifest={}))
    failed, ours = new_job(), claim()
    act(finish, ours, "failed", error=ERROR)
    lost, _ = new_job(), claim()
    with transaction(engine) as session:
        past = database_now(session) - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == lost.id).values(lease_until=past))
    act(reap, make_settings(max_runs_per_job=1))
    assert _told(engine) == [
        ("cancelled", waiting.id),
        ("succeeded", succeeded.id),
        ("failed", failed.id),
        ("failed", lost.id),
    ]
    act(retry_job, "ada", failed.id)
    act(request_cancel, "ada", failed.id)
    assert _told(engine)[4:] == [("cancelled", failed.id)], "a second end is told, too"


def test_an_end_that_is_rolled_back_is_not_told(act, engine, new_job) -> None:
    act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    job = new_job()

    def cancel_and_fail() -> None:
        with transaction(engine) as session:
            request_cancel(session, "ada", job.id)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cancel_and_fail()
    assert _told(engine) == []


def test_only_the_owner_is_told_and_only_of_what_it_asked_for(act, engine, new_job) -> None:
    act(create_webhook, "bob", url=URL, event_types=DEFAULT_EVENT_TYPES)
    act(create_webhook, "ada", url=URL, event_types=["fine_tuning.job.succeeded"])
    act(request_cancel, "ada", new_job().id)
    assert _told(engine) == []


def test_a_message_is_taken_by_one_sender_and_comes_back_later_each_time_until_it_is_given_up(
    act, engine, new_job
) -> None:
    webhook = act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    act(request_cancel, "ada", new_job().id)
    waits = []
    for _ in range(len(RETRY_SECONDS)):
        (due,) = act(take_due_deliveries, 10)
        assert act(take_due_deliveries, 10) == [], "nobody else sends it meanwhile"
        act(record_undelivered, due.id, "The receiver answered 500.")
        with transaction(engine) as session:
            (row,) = list_deliveries(session, "ada", webhook.id)
            waits.append((row.due_at - database_now(session)).total_seconds())
            row.due_at = database_now(session)
    assert waits == sorted(waits)
    assert [round(wait / wanted) for wait, wanted in zip(waits, RETRY_SECONDS, strict=True)] == [1] * len(waits)
    assert len(act(take_due_deliveries, 10)) == 1
    (row,) = act(list_deliveries, "ada", webhook.id)
    assert (row.due_at, row.delivered_at, row.num_tries) == (None, None, len(RETRY_SECONDS) + 1)


def test_what_is_delivered_is_not_sent_again(act, new_job) -> None:
    webhook = act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    act(request_cancel, "ada", new_job().id)
    (due,) = act(take_due_deliveries, 10)
    assert (due.url, due.secret, due.event_type) == (URL, webhook.secret, "fine_tuning.job.cancelled")
    act(record_delivered, due.id)
    (row,) = act(list_deliveries, "ada", webhook.id)
    assert (row.due_at, row.last_error) == (None, None)
    assert row.delivered_at is not None


def test_webhooks_are_rotated_and_deleted_by_their_owner_alone(act, engine, new_job) -> None:
    webhook = act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    for change in (rotate_secret, delete_webhook, list_deliveries):
        with pytest.raises(WebhookNotFound):
            act(change, "bob", webhook.id)
    assert act(rotate_secret, "ada", webhook.id).secret != webhook.secret
    act(request_cancel, "ada", new_job().id)
    act(delete_webhook, "ada", webhook.id)
    assert act(list_webhooks, "ada") == []
    assert _told(engine) == []


def test_an_owner_has_so_many_webhooks_and_no_more(act) -> None:
    for _ in range(MAX_WEBHOOKS):
        act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    with pytest.raises(TooManyWebhooks):
        act(create_webhook, "ada", url=URL, event_types=DEFAULT_EVENT_TYPES)
    act(create_webhook, "bob", url=URL, event_types=DEFAULT_EVENT_TYPES)

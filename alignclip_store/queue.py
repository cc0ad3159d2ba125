"""The message queue. A message is only a wake-up: which job to work on, the database says.

So a message that is lost, doubled or late costs time and nothing else.
"""

from __future__ import annotations

import structlog
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError as BrokerError

from alignclip_store.settings import Settings

WORK_TASK = "alignclip.work"
QUEUE = "alignclip"
MAX_WAITING = 100  # wake-ups nobody has read yet: every worker that becomes free finds one of them
BROKER_SECONDS = 1.0  # how long a request may wait for the broker; the reaper sends again what is not sent

log = structlog.get_logger(__name__)


def create_queue(settings: Settings) -> Celery:
    """The Celery app of the API, the worker and the reaper."""
    app = Celery("alignclip", broker=settings.broker_location, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],  # whoever writes to the broker must not be able to run code
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the lease brings a lost job back; a poisonous one must not loop
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "visibility_timeout": 7 * 24 * 3600,  # a task lasts as long as a training: it must not be delivered twice
            "global_keyprefix": "alignclip:",
            "socket_keepalive": True,
        },
    )
    return app


def wake(app: Celery, job_id: str) -> bool:
    """Tell one worker that there is work; whether the broker has it. Never raises, never waits long."""
    try:
        with _connection(app) as connection:
            if connection.default_channel.queue_declare(QUEUE).message_count < MAX_WAITING:
                app.send_task(WORK_TASK, args=[job_id], connection=connection, retry=False)
    except Exception as error:  # any of the broker's: the job is safe in the database and will be sent again
        log.warning("The broker takes no message; the reaper will send it again.", job_id=job_id, error=str(error))
        return False
    return True


def reaches_broker(app: Celery) -> bool:
    """Whether the broker answers within a second or so."""
    try:
        with _connection(app) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
    except (BrokerError, OSError):
        return False
    return True


def _connection(app: Celery) -> Connection:
    """One that gives up soon, for use beside a person's request."""
    options = app.conf.broker_transport_options | {
        "socket_timeout": BROKER_SECONDS,
        "socket_connect_timeout": BROKER_SECONDS,
        "max_retries": 0,
    }
    connection: Connection = app.connection_for_write(connect_timeout=BROKER_SECONDS, transport_options=options)
    return connection

"""The Celery app, configured once for every process, and the messages that name a job."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery
from kombu import Connection, Queue

from jobs import queues
from jobs.redis_clients import sentinel_login
from jobs.settings import Settings

_PLACEHOLDER: Final = "00000000-0000-0000-0000-00000000f00d"


def make_celery(settings: Settings) -> Celery:
    """The app that workers, Flower and the message maker share. Results are ours to keep, not Celery's."""
    app = Celery("promptq", broker=_broker_url(settings))
    app.conf.update(
        task_queues=[Queue(queues.celery_queue(name), routing_key=queues.celery_queue(name)) for name in queues.QUEUES],
        task_default_queue=queues.celery_queue(queues.DEFAULT),
        task_create_missing_queues=False,
        task_ignore_result=True,
        # There is none; but Celery would make one for each greenlet.
        result_backend_thread_safe=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_consumer="worker.consumer:RefillingConsumer",
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        # Redis may be away for long; a worker waits for it for as long as it takes.
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={
            # A message is a hint to look at a job: one that is lost with its worker is found and sent again (ADR 13).
            "ack_emulation": False,
            "queue_order_strategy": "priority",
            # Preference is by queue; kombu would look into four lists for each of them.
            "priority_steps": [0],
            "socket_timeout": 10,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            **_sentinel_options(settings),
        },
    )
    return app


def _broker_url(settings: Settings) -> str:
    """kombu's way to name Sentinels: one URL each, with what the master wants of a client in all of them."""
    if not settings.redis_sentinels:
        return settings.redis_login_url
    given = urlsplit(settings.redis_login_url)
    login, at, _ = given.netloc.rpartition("@")
    hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in settings.redis_sentinels)
    return ";".join(f"sentinel://{login}{at}{host}{given.path or '/0'}" for host in hosts)


def _sentinel_options(settings: Settings) -> dict[str, Any]:
    if not settings.redis_sentinels:
        return {}
    return {
        "master_name": settings.redis_master,
        "sentinel_kwargs": {**sentinel_login(settings), "socket_timeout": 2, "socket_connect_timeout": 2},
    }


class MessageMaker:
    """Writes the Celery message that tells a worker to look at a job, for an atomic step to push.

    The message is Celery's own: one is published to an in-memory broker at start-up and serves as the template. It
    carries the job's id alone, as the task's id too, so that Flower shows tasks by job id.
    """

    def __init__(self, app: Celery) -> None:
        self._templates: dict[str, tuple[str, str]] = {queue: self._capture(app, queue) for queue in queues.QUEUES}

    def message(self, job_id: str, queue: str, trace: str | None = None) -> str:
        """The JSON that kombu would push to the queue's list; each has a delivery tag of its own.

        ``trace``: a ``traceparent`` for OpenTelemetry's instrumentation of Celery, which looks for it in the headers.
        """
        head, body = self._templates[queue]
        encoded = base64.b64encode(body.replace(_PLACEHOLDER, job_id).encode()).decode()
        if trace is not None:
            head = head.replace('"headers": {', f'"headers": {{"traceparent": {json.dumps(trace)}, ', 1)
        return head.replace(_PLACEHOLDER, job_id).replace("%TAG%", str(uuid.uuid4())).replace("%BODY%", encoded)

    @staticmethod
    def _capture(app: Celery, queue: str) -> tuple[str, str]:
        name = queues.celery_queue(queue)
        with Connection("memory://") as connection, connection.channel() as channel:
            target = Queue(name, routing_key=name)
            target(channel).declare()
            with app.amqp.Producer(channel, auto_declare=False) as producer:
                app.send_task(
                    queues.RUN_JOB,
                    args=(_PLACEHOLDER,),
                    argsrepr=f"('{_PLACEHOLDER}',)",
                    kwargsrepr="{}",
                    task_id=_PLACEHOLDER,
                    queue=target,
                    producer=producer,
                    ignore_result=True,
                )
            raw: dict[str, Any] = channel._get(name)
        body = base64.b64decode(raw["body"]).decode()
        raw["body"] = "%BODY%"
        raw["properties"]["delivery_tag"] = "%TAG%"
        return json.dumps(raw), body

"""The message that tells a worker to look at a job is Celery's own."""

from __future__ import annotations

import base64
import json
from typing import Any

import redis

from jobs import queues
from jobs.broker import MessageMaker, make_celery
from jobs.settings import Settings


def readable(raw: bytes | str) -> dict[str, Any]:
    """A message with its body decoded, less what differs between any two."""
    message: dict[str, Any] = json.loads(raw)
    message["body"] = json.loads(base64.b64decode(message["body"]))
    for part, name in (("properties", "delivery_tag"), ("headers", "origin")):
        assert message[part].pop(name)
    message["headers"].pop("ignore_result", None)
    return message


def test_the_message_is_what_celery_would_send(redis_client: redis.Redis, redis_url: str) -> None:
    """What the maker writes equals what kombu pushes to the same queue for the same task."""
    app = make_celery(Settings(redis_url=redis_url))
    for queue in queues.QUEUES:
        name = queues.celery_queue(queue)
        shown = {"argsrepr": "('job_1',)", "kwargsrepr": "{}"}
        app.send_task(queues.RUN_JOB, args=("job_1",), task_id="job_1", queue=name, **shown)
        (pushed,) = redis_client.lrange(name, 0, -1)
        ours, theirs = readable(MessageMaker(app).message("job_1", queue)), readable(pushed)
        for part in ours.keys() | theirs.keys():
            assert ours[part] == theirs[part], part
    app.close()


def test_the_message_holds_the_id_alone(messages: MessageMaker) -> None:
    """Task and arguments name the job and nothing else; each message has a delivery tag of its own."""
    first, second = (json.loads(messages.message("job_7", "bulk")) for _ in range(2))
    assert json.loads(base64.b64decode(first["body"]))[:2] == [["job_7"], {}]
    assert first["headers"]["id"] == "job_7"
    assert first["headers"]["task"] == queues.RUN_JOB
    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]


def test_a_traced_message_carries_the_span_that_made_it(messages: MessageMaker) -> None:
    """OpenTelemetry's instrumentation of Celery finds ``traceparent`` among the headers; all else is as without."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced, plain = readable(messages.message("job_7", "bulk", trace)), readable(messages.message("job_7", "bulk"))
    assert traced["headers"].pop("traceparent") == trace
    assert traced == plain

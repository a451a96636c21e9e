"""A submit as one writes it by hand: validate, keep a record, send the task; and a poll that reads it.

Flask's quickstart, pydantic, redis-py and Celery's ``send_task``.
"""

import os
import time
import uuid
from typing import Any

import redis
from celery import Celery
from flask import Flask, jsonify, request
from pydantic import BaseModel, ValidationError

app = Flask(__name__)
store = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
celery = Celery("app", broker=os.environ["REDIS_URL"])


class Submission(BaseModel):
    """The body of a submit."""

    prompt: str
    model: str = "sim"


@app.post("/v1/jobs")
def submit() -> Any:
    """Accept a prompt."""
    try:
        sent = Submission.model_validate(request.get_json())
    except ValidationError as error:
        return jsonify({"error": error.errors()}), 400
    job_id = uuid.uuid4().hex
    store.hset(
        f"job:{job_id}",
        mapping={"status": "queued", "prompt": sent.prompt, "model": sent.model, "created_at": time.time()},
    )
    celery.send_task("app.ask", args=[job_id])
    return jsonify({"id": job_id, "status": "queued"}), 202


@app.get("/v1/jobs/<job_id>")
def poll(job_id: str) -> Any:
    """Tell how a job stands."""
    job = store.hgetall(f"job:{job_id}")
    return (jsonify(job), 200) if job else (jsonify({"error": "not found"}), 404)

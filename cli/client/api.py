"""The API of a running PromptQ, as the commands use it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from cli.client.errors import ClientError, Unreachable

Job = dict[str, Any]
_T = TypeVar("_T")

ENDED = frozenset({"completed", "failed", "cancelled", "incomplete"})
_ANSWER = 30.0  # how long an answer may take that is not asked to wait
_LARGE = 120.0  # how long a step of an upload or a download may take
_LONG_POLL = 30.0
_PATIENCE = 30.0  # how long a waiting command puts up with an API that is away, being restarted for example
_PAUSE = 1.0


class Api:
    """A connection to the API at ``url``; every method raises `ClientError` when the API refuses or is not there."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._answered = False
        try:
            self._http = httpx2.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=_ANSWER,
                # A proxy that the environment names cannot reach this machine's loopback.
                trust_env=not _is_loopback(self.url),
            )
        except (httpx2.InvalidURL, ValueError) as error:  # a ValueError: half an IPv6 address, or a key beyond ASCII
            raise ClientError(f"--url or --api-key is not usable: {error}") from error

    def __enter__(self) -> Api:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def submit(self, body: Mapping[str, object], *, idempotency_key: str | None = None) -> Job:
        """Make a job."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._call("POST", "/v1/jobs", json_body=body, headers=headers)

    def get(self, job_id: str, *, wait: float = 0) -> Job:
        """Return the job, at its end or after ``wait`` seconds (60 at most)."""
        params = {"wait": f"{wait:g}"} if wait else {}
        return self._call("GET", _job(job_id), params=params, timeout=_ANSWER + wait)

    def wait(self, job_id: str, *, seconds: float) -> Job:
        """Return the job at its end, or as it is after ``seconds``; puts up with an API that is away for a while."""
        deadline = time.monotonic() + seconds
        away_until: float | None = None
        while True:
            asked = time.monotonic()
            try:
                job = self.get(job_id, wait=max(0.0, min(_LONG_POLL, deadline - asked)))
            except ClientError as error:
                now = time.monotonic()
                away_until = away_until or now + _PATIENCE
                if not _passing(error) or now + _PAUSE > min(away_until, deadline):
                    raise
                time.sleep(_PAUSE)
                continue
            away_until = None
            now = time.monotonic()
            if job.get("status") in ENDED or now >= deadline:
                return job
            # A server that shuts down answers long-polls at once: do not spin.
            time.sleep(max(0.0, min(asked + _PAUSE, deadline) - now))

    def cancel(self, job_id: str) -> Job:
        """Cancel the job; one that has ended stays as it is."""
        return self._call("POST", f"{_job(job_id)}/cancel")

    def list(self, **params: str | int | None) -> dict[str, Any]:
        """Return a page of jobs, newest first; parameters that are None are left out."""
        return self._call("GET", "/v1/jobs", params=_given(params))

    def dead_letters(self, **params: str | int | None) -> dict[str, Any]:
        """Return a page of dead letters, newest first; parameters that are None are left out."""
        return self._call("GET", "/v1/dead_letters", params=_given(params))

    def retry(self, job_id: str) -> Job:
        """Make a new job of one that failed; a second time gives the same new job."""
        return self._call("POST", f"{_job(job_id)}/retry")

    def delete(self, job_id: str) -> dict[str, Any]:
        """Delete the job and its result."""
        return self._call("DELETE", _job(job_id))

    def queues(self) -> dict[str, Any]:
        """Return every queue, the preferred one first."""
        return self._call("GET", "/v1/queues")

    def pause(self, queue: str) -> dict[str, Any]:
        """Let no further job of the queue begin; return its state."""
        return self._call("POST", f"/v1/queues/{quote(queue, safe='')}/pause")

    def resume(self, queue: str) -> dict[str, Any]:
        """Let a paused queue go on; return its state."""
        return self._call("POST", f"/v1/queues/{quote(queue, safe='')}/resume")

    def event_types(self) -> Sequence[str]:
        """Return the events that webhook endpoints can have."""
        return tuple(self._call("GET", "/v1/webhook_event_types").get("data") or ())

    def webhook_endpoints(self, **params: str | int | None) -> dict[str, Any]:
        """Return a page of webhook endpoints, newest first."""
        return self._call("GET", "/v1/webhook_endpoints", params=_given(params))

    def create_webhook_endpoint(self, *, name: str, url: str, event_types: Sequence[str]) -> dict[str, Any]:
        """Make a webhook endpoint; its secret is shown in the answer and never again."""
        body = {"name": name, "url": url, "event_types": list(event_types)}
        return self._call("POST", "/v1/webhook_endpoints", json_body=body)

    def delete_webhook_endpoint(self, endpoint_id: str) -> dict[str, Any]:
        """Delete a webhook endpoint."""
        return self._call("DELETE", f"/v1/webhook_endpoints/{quote(endpoint_id, safe='')}")

    def webhook_deliveries(self, **params: str | int | None) -> dict[str, Any]:
        """Return a page of webhook deliveries, newest first; parameters that are None are left out."""
        return self._call("GET", "/v1/webhook_deliveries", params=_given(params))

    def redeliver(self, delivery_id: str) -> dict[str, Any]:
        """Send a webhook again, now."""
        return self._call("POST", f"/v1/webhook_deliveries/{quote(delivery_id, safe='')}/redeliver")

    def upload(
        self, name: str, content: Iterable[bytes], size: int, *, purpose: str, idempotency_key: str
    ) -> dict[str, Any]:
        """Make a file of so many bytes, which are read as they are sent; the same key and bytes make one file."""
        boundary = secrets.token_hex(16)
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        quoted = name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        head = f'{part}"purpose"\r\n\r\n{purpose}\r\n{part}"file"; filename="{quoted}"\r\n\r\n'.encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
            "Idempotency-Key": idempotency_key,
        }
        return self._call("POST", "/v1/files", content=chain([head], content, [tail]), headers=headers, timeout=_LARGE)

    def download(self, file_id: str, target: Path, show: Callable[[int], None]) -> None:
        """Write a file's content to ``target``; ``show`` is told how many bytes there are."""
        path = f"/v1/files/{quote(file_id, safe='')}/content"
        with self._trouble(_LARGE), self._http.stream("GET", path, timeout=_LARGE) as answer:
            self._answered = True
            if not answer.is_success:
                answer.read()
                _read(answer, self.url)
            done = 0
            with target.open("wb") as out:
                for chunk in answer.iter_bytes():
                    out.write(chunk)
                    done += len(chunk)
                    show(done)

    def create_batch(
        self, *, input_file_id: str, endpoint: str, completion_window: str, idempotency_key: str
    ) -> dict[str, Any]:
        """Make a batch of an uploaded file."""
        body = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
        return self._call("POST", "/v1/batches", json_body=body, headers={"Idempotency-Key": idempotency_key})

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Return a batch as it stands."""
        return self._call("GET", f"/v1/batches/{quote(batch_id, safe='')}")

    def cancel_batch(self, batch_id: str) -> dict[str, Any]:
        """Begin to cancel a batch."""
        return self._call("POST", f"/v1/batches/{quote(batch_id, safe='')}/cancel")

    def batches(self, **params: str | int | None) -> dict[str, Any]:
        """Return a page of batches, newest first; parameters that are None are left out."""
        return self._call("GET", "/v1/batches", params=_given(params))

    def patiently(self, call: Callable[[], _T], *, on_away: Callable[[ClientError], None]) -> _T:
        """Return what ``call`` does, repeated for a while if the API goes away: for what may be done twice.

        ``on_away`` is told once. An API that has never answered is not waited for: its address may be wrong.
        """
        away_until: float | None = None
        while True:
            try:
                return call()
            except ClientError as error:
                now = time.monotonic()
                if not _passing(error) or not self._answered or (away_until and now + _PAUSE > away_until):
                    raise
                if away_until is None:
                    away_until = now + _PATIENCE
                    on_away(error)
            time.sleep(_PAUSE)

    def _call(
        self,
        method: str,
        path: str,
        *,
        json_body: Mapping[str, object] | None = None,
        content: Iterable[bytes] | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = _ANSWER,
    ) -> dict[str, Any]:
        with self._trouble(timeout):
            answer = self._http.request(
                method,
                path,
                json=json_body,
                content=content,
                params=dict(params or {}),
                headers=dict(headers or {}),
                timeout=timeout,
            )
        self._answered = True
        return _read(answer, self.url)

    @contextlib.contextmanager
    def _trouble(self, timeout: float) -> Iterator[None]:
        """Turn the HTTP client's errors into ours."""
        try:
            yield
        except httpx2.ConnectError as error:
            message = (
                f"no PromptQ answers at {self.url} ({error}): start one with `promptq up`, or name yours with --url"
            )
            raise Unreachable(message) from error
        except httpx2.TimeoutException as error:
            raise Unreachable(f"{self.url} did not answer in {timeout:g} s") from error
        except httpx2.RequestError as error:
            raise Unreachable(f"the connection to {self.url} failed: {error}") from error


def _read(answer: httpx2.Response, url: str) -> dict[str, Any]:
    try:
        content = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        message = f"{url} answered HTTP {answer.status_code} without a JSON object: is that PromptQ's address?"
        raise ClientError(message, status=answer.status_code)
    if answer.is_success:
        return content
    error = content.get("error")
    if not isinstance(error, dict):
        raise ClientError(f"{url} answered HTTP {answer.status_code}", status=answer.status_code)
    message, param = str(error.get("message") or f"HTTP {answer.status_code}"), str(error.get("param") or "")
    if param not in message:
        message += f" [{param}]"
    raise ClientError(message, code=error.get("code") or error.get("type"), status=answer.status_code)


def _passing(error: ClientError) -> bool:
    """Whether the trouble may be over in a moment, so that waiting goes on."""
    return isinstance(error, Unreachable) or error.status in {429, 502, 503, 504}


def _given(params: Mapping[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value}


def _job(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""The LLM's list of models, passed on and cached briefly."""

from __future__ import annotations

import time
from typing import Any, Final

import httpx2

from jobs.errors import LLMBadAnswer, LLMError, LLMRejected, LLMTimeout, LLMUnavailable, LLMUnreachable
from jobs.settings import Settings

_TIMEOUT: Final = 10.0


class ModelsProxy:
    """Asks the LLM for its models; one answer serves everybody for a while."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.llm_url.rstrip("/")
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        self._client = httpx2.Client(timeout=_TIMEOUT, headers={"Authorization": f"Bearer {key}"})
        self._ttl = settings.models_cache_seconds
        self._cache: tuple[dict[str, Any] | None, float] = (None, 0.0)

    def list(self) -> dict[str, Any]:
        """The LLM's list, as it came. Raises an ``LLMError`` if the LLM does not give one."""
        cached, until = self._cache
        if cached is not None and time.monotonic() < until:
            return cached
        # Not under a lock: while the LLM hangs, callers shall not wait for each other's time-outs on top.
        fresh = self._get("/models")
        self._cache = (fresh, time.monotonic() + self._ttl)
        return fresh

    def get(self, name: str) -> dict[str, Any] | None:
        """One model of the list; None if there is no such."""
        models = self.list()["data"]
        return next((model for model in models if isinstance(model, dict) and model.get("id") == name), None)

    def _get(self, path: str) -> dict[str, Any]:
        try:
            response = self._client.get(self._url + path)
        except httpx2.TimeoutException as error:
            raise LLMTimeout("The LLM gave no list of models in time.") from error
        except httpx2.HTTPError as error:
            raise LLMUnreachable("The LLM could not be reached for its list of models.") from error
        if response.status_code >= 400:
            raise _refused(response.status_code)
        try:
            answer = response.json()
        except ValueError as error:
            raise LLMBadAnswer("The LLM's list of models is not JSON.") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise LLMBadAnswer("The LLM's list of models is not a list.")
        return {**answer, "object": "list"}


def _refused(status: int) -> LLMError:
    kind = LLMUnavailable if status >= 500 else LLMRejected
    return kind(f"The LLM answered {status} when asked for its models.", upstream_status=status)

"""What is PromptQ's to say in a response, and not its LLM's: the same in its events as in itself."""

from __future__ import annotations

from typing import Any

from jobs.model import Job


def own_members(job: Job, upstream_id: Any) -> dict[str, Any]:
    """Members that take the place of the LLM's; its own id (``upstream_id``, None if it gave none) stands beside."""
    ours: dict[str, Any] = {"id": job.id, "created_at": job.created_at, "background": job.background}
    if job.previous_response_id is not None:
        # The LLM was told another id, or none.
        ours["previous_response_id"] = job.previous_response_id
    if not job.stored:
        ours["store"] = False
    if upstream_id is not None:
        ours["upstream_id"] = str(upstream_id)
    return ours

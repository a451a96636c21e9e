"""Ids in paths and queries."""

from __future__ import annotations

from jobs.errors import NotFound
from jobs.queues import (
    BATCH_ID_PATTERN,
    DELIVERY_ID_PATTERN,
    ENDPOINT_ID_PATTERN,
    FILE_ID_PATTERN,
    JOB_ID_PATTERN,
)


def known_id(job_id: str, *, param: str = "id") -> str:
    """The id, if it can be one of ours. Raises ``NotFound``, as for an id that nobody has."""
    if not JOB_ID_PATTERN.fullmatch(job_id):
        # Not quoted: it can be anything.
        raise NotFound("No job with this id found.", param=param)
    return job_id


def known_response_id(response_id: str, *, param: str = "id") -> str:
    """The id, if it can be that of a response. Raises ``NotFound``."""
    if not response_id.startswith("resp_"):
        raise NotFound("No response with this id found.", param=param)
    return known_id(response_id, param=param)


def known_batch_id(batch_id: str, *, param: str = "batch_id") -> str:
    """The id, if it can be that of a batch. Raises ``NotFound``."""
    if not BATCH_ID_PATTERN.fullmatch(batch_id):
        raise NotFound("No batch with this id found.", param=param)
    return batch_id


def known_file_id(file_id: str, *, param: str = "id") -> str:
    """The id, if it can be that of a file. Raises ``NotFound``."""
    if not FILE_ID_PATTERN.fullmatch(file_id):
        raise NotFound("No file with this id found.", param=param)
    return file_id


def known_endpoint_id(endpoint_id: str, *, param: str = "id") -> str:
    """The id, if it can be that of a webhook endpoint. Raises ``NotFound``."""
    if not ENDPOINT_ID_PATTERN.fullmatch(endpoint_id):
        raise NotFound("No webhook endpoint with this id found.", param=param)
    return endpoint_id


def known_delivery_id(delivery_id: str, *, param: str = "id") -> str:
    """The id, if it can be that of a webhook delivery. Raises ``NotFound``."""
    if not DELIVERY_ID_PATTERN.fullmatch(delivery_id):
        raise NotFound("No webhook delivery with this id found.", param=param)
    return delivery_id

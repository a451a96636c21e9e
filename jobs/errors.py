"""One tree of errors; each class carries its code, its HTTP status and whether another try is worth it.

PromptQError
├── RequestError                        the caller's to mend (4xx)
│   ├── InvalidRequest                  400
│   ├── PreviousResponseNotFound        400
│   ├── PreviousResponseNotCompleted    400
│   ├── StoreRequired                   400
│   ├── Unauthorized                    401
│   ├── Forbidden                       403
│   ├── NotFound                        404
│   │   └── ContentMissing              the record is there, its content is not
│   ├── IdempotencyConflict             409
│   ├── JobCancelled                    409
│   ├── NotRetryable                    409
│   ├── BatchNotCancellable             409
│   ├── NotDeliverable                  409
│   ├── SecretShown                     409
│   ├── PayloadTooLarge                 413
│   └── RequestTimeout                  408
├── Unavailable                         503
│   ├── StoreUnavailable                nothing was done
│   ├── StoreFull                       nothing was done
│   ├── StorageUnavailable              nothing was done
│   ├── AcceptanceUnknown               the reply was lost: maybe a job was made
│   └── OutcomeUnknown                  the reply was lost: maybe something was changed
├── WebhooksOff                         501
├── StorageOff                          501
├── WebhookTestFailed                   502
├── SecretUnreadable                    500
├── WaitTimeout                         504
├── DeadlineExceeded                    504
└── LLMError                            the LLM's call did not bring what was asked for
    ├── LLMRejected                     a final 4xx
    ├── LLMUnsupported                  400: it speaks chat completions alone, which cannot say this
    ├── LLMRateLimited                  429
    ├── LLMUnavailable                  408, 409, 5xx
    ├── LLMUnreachable                  no connection, or it was cut
    ├── LLMTimeout                      no answer in time
    └── LLMBadAnswer                    an answer that is not what was promised
"""

from __future__ import annotations

from typing import ClassVar


class PromptQError(Exception):
    """Root of all errors that PromptQ raises on purpose."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    error_type: ClassVar[str] = "server_error"
    #: Whether repeating the same thing may succeed.
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class RequestError(PromptQError):
    """Raised when the caller has to change the request."""

    http_status = 400
    error_type = "invalid_request_error"


class InvalidRequest(RequestError):
    """Raised when a request is malformed or a value in it is of the wrong kind."""

    code = "invalid_request"


class PreviousResponseNotFound(RequestError):
    """Raised when the caller has no response of the id in ``previous_response_id``; code and status are OpenAI's."""

    code = "previous_response_not_found"


class PreviousResponseNotCompleted(RequestError):
    """Raised when the response that shall be continued has not ended, or has brought nothing."""

    code = "previous_response_not_completed"


class StoreRequired(RequestError):
    """Raised when ``store: false`` stands beside what needs a response that is kept."""

    code = "store_required"


class Unauthorized(RequestError):
    """Raised when no valid API key was given."""

    code = "invalid_api_key"
    http_status = 401
    error_type = "authentication_error"


class Forbidden(RequestError):
    """Raised when the caller may not do this, or an open server is reached as only a foreign web page would."""

    code = "forbidden"
    http_status = 403
    error_type = "permission_error"


class NotFound(RequestError):
    """Raised when the caller has no job of that id."""

    code = "not_found"
    http_status = 404


class ContentMissing(NotFound):
    """Raised when the storage has no content under a key."""


class IdempotencyConflict(RequestError):
    """Raised when an Idempotency-Key comes back with another request."""

    code = "idempotency_key_reused"
    http_status = 409


class JobCancelled(RequestError):
    """Raised to a waiting caller whose job was cancelled or deleted by another request."""

    code = "job_cancelled"
    http_status = 409


class NotRetryable(RequestError):
    """Raised when a job shall be retried that has neither failed nor been cancelled."""

    code = "not_retryable"
    http_status = 409


class BatchNotCancellable(RequestError):
    """Raised when a batch shall be cancelled that has ended, or whose results are being put together."""

    code = "batch_not_cancellable"
    http_status = 409


class NotDeliverable(RequestError):
    """Raised when a webhook shall be sent again whose endpoint is deleted or disabled."""

    code = "not_deliverable"
    http_status = 409


class SecretShown(RequestError):
    """Raised when a signing secret is asked for a second time."""

    code = "secret_already_shown"
    http_status = 409


class PayloadTooLarge(RequestError):
    """Raised when a body or a prompt is larger than the settings allow."""

    code = "payload_too_large"
    http_status = 413


class RequestTimeout(RequestError):
    """Raised when the rest of a request does not come."""

    code = "request_timeout"
    http_status = 408
    retryable = True


class Unavailable(PromptQError):
    """Raised when the service cannot answer now."""

    code = "service_unavailable"
    http_status = 503
    retryable = True


class StoreUnavailable(Unavailable):
    """Raised when Redis cannot be reached; nothing was done."""

    code = "store_unavailable"


class StoreFull(Unavailable):
    """Raised when Redis refuses to take more (``OOM`` under ``noeviction``); nothing was done."""

    code = "store_full"


class StorageUnavailable(Unavailable):
    """Raised when the storage of files does not answer, is full or refuses us."""

    code = "storage_unavailable"


class AcceptanceUnknown(Unavailable):
    """Raised when Redis was asked to make a job and its answer was lost."""

    code = "acceptance_unknown"
    lost = (
        "The job store was asked to take the job, but its answer was lost: it may have been accepted. "
        "Repeat the request with the same Idempotency-Key."
    )


class OutcomeUnknown(Unavailable):
    """Raised when Redis was asked for a change that must not be made twice, and its answer was lost."""

    code = "outcome_unknown"
    lost = (
        "The job store was asked to make the change, but its answer was lost: it may have been made. "
        "Look what is there before you repeat the request."
    )


class WebhooksOff(PromptQError):
    """Raised when a webhook is asked for on a server that has no key to keep signing secrets with."""

    code = "webhooks_not_set_up"
    http_status = 501


class StorageOff(PromptQError):
    """Raised when a file is asked for on a server that has no storage for files."""

    code = "files_not_set_up"
    http_status = 501


class SecretUnreadable(PromptQError):
    """Raised when no key opens a signing secret."""

    code = "secret_unreadable"


class WebhookTestFailed(PromptQError):
    """Raised when a test event had no answer of its endpoint."""

    code = "webhook_test_failed"
    http_status = 502


class WaitTimeout(PromptQError):
    """Raised when a synchronous call outlasts ``PROMPTQ_MAX_WAIT``; its job goes on."""

    code = "wait_timeout"
    http_status = 504
    error_type = "timeout_error"


class DeadlineExceeded(PromptQError):
    """What a job ends with, and its waiting caller gets, when its own deadline has passed."""

    code = "deadline_exceeded"
    http_status = 504
    error_type = "timeout_error"


class LLMError(PromptQError):
    """Raised when a call of the LLM did not bring what was asked for.

    ``upstream_status`` and ``upstream_error`` are the LLM's own HTTP status and error object, where it answered;
    ``upstream_request_id`` its request id. ``retry_after`` is in seconds.
    """

    http_status = 502

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        upstream_error: dict[str, object] | None = None,
        upstream_request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.upstream_status = upstream_status
        self.upstream_error = upstream_error
        self.upstream_request_id = upstream_request_id


class LLMRejected(LLMError):
    """Raised when the LLM refuses the request for good (400, 401, 403, 404, 422, content policy)."""

    code = "llm_rejected"


class LLMUnsupported(LLMError):
    """Raised before the call when the LLM's API has no words for what is asked (``PROMPTQ_LLM_API``)."""

    code = "unsupported_by_llm"
    http_status = 400
    error_type = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class LLMRateLimited(LLMError):
    """Raised when the LLM answers 429."""

    code = "llm_rate_limited"
    retryable = True


class LLMUnavailable(LLMError):
    """Raised when the LLM answers 408, 409 or 5xx."""

    code = "llm_unavailable"
    retryable = True


class LLMUnreachable(LLMError):
    """Raised when there is no connection to the LLM, or it was cut."""

    code = "llm_unreachable"
    retryable = True


class LLMTimeout(LLMError):
    """Raised when the LLM gave no full answer in time."""

    code = "llm_timeout"
    http_status = 504
    retryable = True


class LLMBadAnswer(LLMError):
    """Raised when the LLM's answer is not the JSON that its API promises."""

    code = "llm_bad_answer"
    retryable = True

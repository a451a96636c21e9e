"""What callers get. Timestamps are Unix seconds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.batches import BatchStatus
from jobs.files import Purpose
from jobs.model import Endpoint, JobStatus
from jobs.queues import QueueName
from jobs.webhooks import DeliveryStatus, DisabledReason


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The parameter at fault, where there is one.")
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error shape; every error has it."""

    error: ErrorDetail


class JobError(BaseModel):
    """Why a job failed; the LLM's own words beside ours, where it answered."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str
    upstream_status: int | None = None
    upstream_error: dict[str, Any] | None = None
    upstream_request_id: str | None = None


class Attempt(BaseModel):
    """An LLM call that did not bring what was asked for."""

    model_config = ConfigDict(extra="allow")

    attempt: int
    started_at: float
    ended_at: float
    error_code: str
    upstream_status: int | None
    upstream_request_id: str | None


class JobSummary(BaseModel):
    """A job without its result, as lists hold it."""

    id: str
    object: Literal["job"]
    status: JobStatus
    endpoint: Endpoint
    model: str
    queue: QueueName
    attempt: int = Field(description="The current LLM call, counted from 1; 0 before the first.")
    created_at: float
    started_at: float | None
    finished_at: float | None
    deadline_at: float | None
    retry_at: float | None = Field(description="When the next attempt is due, while the job waits for it.")
    attempt_timeout_seconds: float | None
    webhook_url: str | None = Field(description="Where the job's end is told, besides your webhook endpoints.")
    retried_from: str | None = Field(description="The job that this one repeats.")
    retried_as: str | None = Field(description="The job that repeats this one.")
    metadata: dict[str, str]
    error: JobError | None
    usage: dict[str, Any] | None = Field(description="Token counts, as the LLM gave them.")
    attempts: list[Attempt] = Field(description="Attempts that failed, oldest first.")


class JobAnswer(JobSummary):
    """A job."""

    queue_position: int | None = Field(description="1 for the next to run; null unless the job is in its queue.")
    result: dict[str, Any] | None = Field(description="The LLM's answer, as it came.")


class _List(BaseModel):
    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class JobList(_List):
    """A page of jobs, newest first."""

    data: list[JobSummary]


class QueueAnswer(BaseModel):
    """A queue, of all owners together."""

    id: QueueName
    object: Literal["queue"]
    paused: bool
    waiting: int
    running: int
    next_created_at: float | None = Field(description="When the job that is next was made; null while none waits.")


class QueueList(_List):
    """The queues, the preferred one first."""

    data: list[QueueAnswer]


class ResponseAnswer(BaseModel):
    """OpenAI's Response object; fields that we do not know are passed through."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"]
    created_at: float
    status: JobStatus
    model: str
    output: list[Any]
    parallel_tool_calls: bool
    tool_choice: Any
    tools: list[Any]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    queue_position: int | None = Field(None, description="1 for the next to run; only while the response is queued.")
    upstream_id: str | None = Field(None, description="The id that the LLM gave.")


class ResponseList(_List):
    """A page of responses, newest first. Not in OpenAI's API."""

    data: list[ResponseAnswer]


class InputItemList(_List):
    """What was asked: the items of a response's input."""

    data: list[dict[str, Any]]


class BatchProblem(BaseModel):
    """What is wrong with a batch's file."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchProblems(BaseModel):
    """Why a batch's file cannot be used."""

    object: Literal["list"]
    data: list[BatchProblem]


class RequestCounts(BaseModel):
    """How many lines a batch has, and how many of them are done."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    """What the tokens of the input were."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """What the tokens of the output were."""

    reasoning_tokens: int


class BatchUsageAnswer(BaseModel):
    """What a batch has cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchAnswer(BaseModel):
    """OpenAI's Batch object."""

    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    status: BatchStatus
    input_file_id: str
    completion_window: str
    output_file_id: str | None = Field(description="The file with the lines that were answered, once there is one.")
    error_file_id: str | None = Field(description="The file with the lines that failed, once there is one.")
    errors: BatchProblems | None
    request_counts: RequestCounts
    model: str | None = Field(description="The model that all lines ask for; null where they ask for several.")
    usage: BatchUsageAnswer = Field(description="The tokens of all lines whose results are written, as the LLM told.")
    metadata: dict[str, str]
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class BatchList(_List):
    """A page of batches, newest first."""

    data: list[BatchAnswer]


class FileAnswer(BaseModel):
    """OpenAI's File object."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None = Field(description="null: it is kept until you delete it.")
    filename: str
    purpose: Purpose
    status: Literal["processed"]


class FileList(_List):
    """A page of files."""

    data: list[FileAnswer]


class DeletedFile(BaseModel):
    """That a file is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class WebhookEndpointAnswer(BaseModel):
    """OpenAI's webhook endpoint; the last four members are ours."""

    id: str
    object: Literal["webhook_endpoint"]
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    created_at: int
    updated_at: int
    enabled: bool
    disabled_at: float | None
    disabled_reason: DisabledReason | None = Field(
        description="gone: it answered 410; failing: only failures for PROMPTQ_WEBHOOK_DISABLE_AFTER; owner: you did."
    )
    failing_since: float | None = Field(description="Since when every try has failed.")


class WebhookEndpointWithSecret(WebhookEndpointAnswer):
    """A webhook endpoint and its signing secret, which is shown this once."""

    signing_secret: str


class WebhookEndpointList(_List):
    """A page of webhook endpoints, newest first."""

    data: list[WebhookEndpointAnswer]


class DeletedWebhookEndpoint(BaseModel):
    """That a webhook endpoint is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class WebhookTestAnswer(BaseModel):
    """What a webhook endpoint answered to a test."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True]


class WebhookEventTypeList(BaseModel):
    """The events that webhook endpoints can have."""

    object: Literal["list"]
    data: list[str]


class WebhookSecretAnswer(BaseModel):
    """What may be shown of the secret that a job's own webhooks are signed with."""

    object: Literal["webhook_secret"]
    signing_secret_hint: str
    created_at: int
    updated_at: int


class WebhookSecretShown(WebhookSecretAnswer):
    """The secret itself, which is shown this once."""

    signing_secret: str


class WebhookTry(BaseModel):
    """One try to deliver a webhook."""

    started_at: float
    seconds: float
    status_code: int | None = Field(description="The receiver's HTTP status; null if it gave none.")
    error: str | None = Field(description="A word for what went wrong; null after a 2xx.")
    detail: str | None


class WebhookDeliveryData(BaseModel):
    """What the event is about."""

    id: str


class WebhookDeliveryAnswer(BaseModel):
    """An event on its way to one receiver."""

    id: str
    object: Literal["webhook_delivery"]
    webhook_id: str = Field(description="The event's id, in the header `webhook-id` of every try.")
    webhook_endpoint_id: str | None = Field(description="null: the URL that the job named itself.")
    event_type: str
    data: WebhookDeliveryData
    status: DeliveryStatus
    created_at: float
    next_try_at: float | None
    ended_at: float | None
    error: str | None = Field(description="What went wrong last; null if nothing did.")
    tries: list[WebhookTry]
    test: bool


class WebhookDeliveryList(_List):
    """A page of webhook deliveries, newest first."""

    data: list[WebhookDeliveryAnswer]


class Deleted(BaseModel):
    """That a job or a response is gone."""

    id: str
    object: Literal["job", "response"]
    deleted: Literal[True]


class LLMAnswer(BaseModel):
    """The LLM's answer, as it came."""

    model_config = ConfigDict(extra="allow")


class GenerateAnswer(BaseModel):
    """The answer's text."""

    response: str


class ModelList(BaseModel):
    """The LLM's models."""

    model_config = ConfigDict(extra="allow")

    object: Literal["list"]
    data: list[dict[str, Any]]


class Health(BaseModel):
    """That a process is alive, or ready."""

    status: Literal["ok"]

"""What callers send. These models check what is ours to act on; all else goes to the LLM as it came."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, Endpoint, JobStatus
from jobs.queues import QueueName
from jobs.settings import MAX_DEADLINE
from jobs.webhook_urls import MAX_URL
from jobs.webhooks import DeliveryStatus, EventType


def _no_stream(value: bool) -> bool:
    if value:
        raise PydanticCustomError("unsupported", "streaming is not supported yet; leave 'stream' out")
    return value


def _not_empty(value: str) -> str:
    if not value:
        raise PydanticCustomError("empty", "the prompt is empty")
    return value


#: Not ``Field(min_length=1)``: pydantic would turn the text into UTF-8 for it, and refuse a lone surrogate.
Prompt = Annotated[str, AfterValidator(_not_empty), WithJsonSchema({"type": "string", "minLength": 1})]
NoStream = Annotated[bool, AfterValidator(_no_stream), WithJsonSchema({"type": "boolean", "enum": [False]})]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
#: OpenAI's rule: up to 16 pairs, keys of up to 64 and values of up to 512 characters.
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]
Deadline = Annotated[float, Field(gt=0, le=MAX_DEADLINE, allow_inf_nan=False)]
#: How a URL must be written, jobs.webhook_urls says.
WebhookUrl = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL), Field(examples=["https://…"])]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100)]
EndpointName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
AttemptTimeout = Annotated[float, Field(gt=0, le=MAX_DEADLINE, allow_inf_nan=False)]


class _Ours(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class _OpenAIs(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class JobOptions(_Ours):
    """PromptQ's own options on an OpenAI-shaped door (the SDK's ``extra_body={"promptq": {...}}``)."""

    queue: QueueName | None = None
    deadline_seconds: Deadline | None = Field(None, description="The job fails if it has not ended by then.")
    attempt_timeout_seconds: AttemptTimeout | None = Field(
        None, description="An attempt that takes longer is ended, and repeated as after any time-out of the LLM."
    )
    webhook_url: WebhookUrl | None = Field(
        None, description="Where to tell of the job's end, signed with your webhook secret (`/v1/webhook_secret`)."
    )


class _Body(_OpenAIs):
    model: ModelName
    stream: NoStream | None = None
    promptq: JobOptions | None = None


class BackgroundOptions(_OpenAIs):
    """OpenAI's options of a background response."""

    completion_window: Literal["soonest", "2h", "8h"] | None = Field(
        None, description="soonest runs on the queue interactive, 2h on default, 8h on bulk."
    )


class ResponseBody(_Body):
    """The body of `POST /v1/responses`, as OpenAI documents it."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["input"]},
                {"required": ["prompt"], "properties": {"prompt": {"type": "object"}}},
            ]
        }
    )

    input: str | list[Any] = Field(default="", description="Text, or a list of input items.")
    prompt: dict[str, Any] | None = Field(None, description="A prompt template that the LLM keeps.")
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _has_prompt(self) -> ResponseBody:
        if "input" not in self.model_fields_set and self.prompt is None:
            raise PydanticCustomError("no_prompt", "neither input nor prompt is given")
        return self


class ChatBody(_Body):
    """The body of `POST /v1/chat/completions`, as OpenAI documents it."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    metadata: Metadata | None = None


class CompletionBody(_Body):
    """The body of `POST /v1/completions`, as OpenAI documents it."""

    prompt: str | list[Any]


class EmbeddingBody(_Body):
    """The body of `POST /v1/embeddings`, as OpenAI documents it."""

    input: str | list[Any]


BODIES: dict[Endpoint, type[_Body]] = {
    RESPONSES: ResponseBody,
    CHAT_COMPLETIONS: ChatBody,
    COMPLETIONS: CompletionBody,
    EMBEDDINGS: EmbeddingBody,
}


class _JobFields(_Ours):
    queue: QueueName = Field("default", description="Free slots look at interactive first, then default, then bulk.")
    metadata: Metadata | None = None
    deadline_seconds: Deadline | None = Field(None, description="The job fails if it has not ended by then.")
    attempt_timeout_seconds: AttemptTimeout | None = Field(
        None, description="An attempt that takes longer is ended, and repeated as after any time-out of the LLM."
    )
    webhook_url: WebhookUrl | None = Field(
        None, description="Where to tell of the job's end, signed with your webhook secret (`/v1/webhook_secret`)."
    )


def _no_options(body: _Body) -> _Body:
    if "promptq" in body.model_fields_set:
        raise PydanticCustomError("misplaced", "the options in 'promptq' stand beside 'body' here, not in it")
    return body


_WithoutOptions = (AfterValidator(_no_options), Field(json_schema_extra={"not": {"required": ["promptq"]}}))


class ResponseJob(_JobFields):
    """A job in full: a response. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/responses"]
    body: Annotated[ResponseBody, *_WithoutOptions]


class ChatJob(_JobFields):
    """A job in full: a chat completion. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/chat/completions"]
    body: Annotated[ChatBody, *_WithoutOptions]


class CompletionJob(_JobFields):
    """A job in full: a completion. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/completions"]
    body: Annotated[CompletionBody, *_WithoutOptions]


class EmbeddingJob(_JobFields):
    """A job in full: embeddings. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/embeddings"]
    body: Annotated[EmbeddingBody, *_WithoutOptions]


EndpointJob = ResponseJob | ChatJob | CompletionJob | EmbeddingJob
JOBS: dict[Endpoint, type[EndpointJob]] = {
    RESPONSES: ResponseJob,
    CHAT_COMPLETIONS: ChatJob,
    COMPLETIONS: CompletionJob,
    EMBEDDINGS: EmbeddingJob,
}


class JobHead(BaseModel):
    """Which endpoint a job in full is for; it decides what else must be there."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    endpoint: Endpoint


class PromptJob(_JobFields):
    """A job in short: a prompt, asked as one user message of a chat completion."""

    prompt: Prompt
    model: ModelName | None = Field(None, description="PROMPTQ_DEFAULT_MODEL, if none is named.")


class GenerateRequest(_Ours):
    """The body of `POST /generate`."""

    prompt: Prompt
    model: ModelName | None = Field(None, description="PROMPTQ_DEFAULT_MODEL, if none is named.")


class PageQuery(BaseModel):
    """Which page of a list."""

    limit: int = Field(20, ge=1, le=100)
    after: str | None = Field(None, description="The last id of the page before.")


class JobsQuery(PageQuery):
    """Which jobs, and which page of them."""

    status: JobStatus | None = None
    queue: QueueName | None = None


class DeadLettersQuery(PageQuery):
    """Which dead letters, and which page of them."""

    queue: QueueName | None = None


class RetrieveQuery(BaseModel):
    """How to retrieve a response."""

    stream: NoStream = False


class WaitQuery(BaseModel):
    """How long to hold the request until the job ends."""

    wait: float = Field(0, ge=0, le=60, allow_inf_nan=False, description="Seconds.")


class InputItemsQuery(PageQuery):
    """Which page of a response's input items, and in which order."""

    order: Literal["asc", "desc"] = "desc"


class EndpointCreate(_Ours):
    """The body of `POST /v1/webhook_endpoints`, as OpenAI documents it."""

    name: EndpointName
    url: WebhookUrl
    event_types: EventTypes


class EndpointUpdate(_Ours):
    """What changes of a webhook endpoint."""

    name: EndpointName | None = None
    url: WebhookUrl | None = None
    event_types: EventTypes | None = None
    enabled: bool | None = Field(None, description="Not in OpenAI's API: false disables it, true enables it again.")


class EndpointTest(_Ours):
    """Which event a test sends."""

    event_type: EventType


class RotateSecret(_Ours):
    """How a secret is replaced."""

    keep_old_secret_active_for_24_hours: bool | None = None


class DeliveriesQuery(PageQuery):
    """Which deliveries, and which page of them."""

    endpoint: str | None = Field(None, description="A webhook endpoint's id, or job: those to a job's own URL.")
    status: DeliveryStatus | None = None

"""What callers send. These models check what is ours to act on; all else goes to the LLM as it came."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from jobs.bodies import (
    AttemptTimeout,
    Body,
    ChatBody,
    CompletionBody,
    Deadline,
    EmbeddingBody,
    Metadata,
    ModelName,
    OpenAIs,
    Ours,
    ResponseBody,
    WebhookUrl,
)
from jobs.files import MAX_LIFETIME, MIN_LIFETIME, Purpose, UploadPurpose
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, Endpoint, JobStatus
from jobs.queues import QueueName
from jobs.webhooks import DeliveryStatus, EventType


def _not_empty(value: str) -> str:
    if not value:
        raise PydanticCustomError("empty", "the prompt is empty")
    return value


#: Not ``Field(min_length=1)``: pydantic would turn the text into UTF-8 for it, and refuse a lone surrogate.
Prompt = Annotated[str, AfterValidator(_not_empty), WithJsonSchema({"type": "string", "minLength": 1})]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100)]
EndpointName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _JobFields(Ours):
    queue: QueueName = Field("default", description="Free slots look at interactive first, then default, then bulk.")
    metadata: Metadata | None = None
    deadline_seconds: Deadline | None = Field(None, description="The job fails if it has not ended by then.")
    attempt_timeout_seconds: AttemptTimeout | None = Field(
        None, description="An attempt that takes longer is ended, and repeated as after any time-out of the LLM."
    )
    webhook_url: WebhookUrl | None = Field(
        None, description="Where to tell of the job's end, signed with your webhook secret (`/v1/webhook_secret`)."
    )


def _for_a_job(body: Body) -> Body:
    if "promptq" in body.model_fields_set:
        raise PydanticCustomError("misplaced", "the options in 'promptq' stand beside 'body' here, not in it")
    if body.stream:
        raise PydanticCustomError("no_reader", "nobody would read the stream of a job; ask its own endpoint for one")
    return body


_STREAMS: JsonDict = {"required": ["stream"], "properties": {"stream": {"const": True}}}
_ForAJob = (
    AfterValidator(_for_a_job),
    Field(json_schema_extra={"not": {"anyOf": [{"required": ["promptq"]}, _STREAMS]}}),
)


class ResponseJob(_JobFields):
    """A job in full: a response. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/responses"]
    body: Annotated[ResponseBody, *_ForAJob]


class ChatJob(_JobFields):
    """A job in full: a chat completion. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/chat/completions"]
    body: Annotated[ChatBody, *_ForAJob]


class CompletionJob(_JobFields):
    """A job in full: a completion. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/completions"]
    body: Annotated[CompletionBody, *_ForAJob]


class EmbeddingJob(_JobFields):
    """A job in full: embeddings. The body goes to the LLM unchanged."""

    endpoint: Literal["/v1/embeddings"]
    body: Annotated[EmbeddingBody, *_ForAJob]


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


class GenerateRequest(Ours):
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

    stream: bool = Field(False, description="As server-sent events.")
    starting_after: int | None = Field(
        None,
        ge=-1,
        le=2**53,
        description="The `sequence_number` of the last event that you have; without it, all come.",
    )


class WaitQuery(BaseModel):
    """How long to hold the request until the job ends."""

    wait: float = Field(0, ge=0, le=60, allow_inf_nan=False, description="Seconds.")


class InputItemsQuery(PageQuery):
    """Which page of a response's input items, and in which order."""

    order: Literal["asc", "desc"] = "desc"


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class OutputExpiresAfter(Ours):
    """How long a batch's files with results are kept."""

    anchor: Literal["created_at"]
    # JSON has one kind of numbers: 3600.0 is an integer too, and strict mode would refuse it.
    seconds: Annotated[int, BeforeValidator(_whole)] = Field(ge=MIN_LIFETIME, le=MAX_LIFETIME)


class BatchCreate(OpenAIs):
    """The body of `POST /v1/batches`, as OpenAI documents it."""

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    endpoint: Endpoint
    completion_window: Annotated[str, StringConstraints(max_length=16)] = Field(
        description="`24h` at OpenAI; here any number of s, m, h or d, up to 30 days.",
        examples=["24h"],
        # A pattern cannot count: these are the numbers of as many digits that are never more than 30 days.
        json_schema_extra={"pattern": "^([1-9][0-9]{0,5}s|[1-9][0-9]{0,3}m|[1-9][0-9]?h|([1-9]|[12][0-9]|30)d)$"},
    )
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None


_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"


def _with_file(schema: dict[str, Any]) -> None:
    file = {"type": "string", "format": "binary", "description": "The file itself, with its name."}
    for described in schema["properties"].values():
        described.pop("default", None)
    schema["properties"] = {"file": file, **schema["properties"]}
    schema["required"] = ["file", *schema["required"]]
    schema["dependentRequired"] = {_ANCHOR: [_SECONDS]}


class FileCreate(Ours):
    """The form of `POST /v1/files`."""

    model_config = ConfigDict(json_schema_extra=_with_file)

    purpose: UploadPurpose
    # A form has no null.
    anchor: Literal["created_at"] | SkipJsonSchema[None] = Field(None, alias=_ANCHOR)
    seconds: Annotated[int, Field(ge=MIN_LIFETIME, le=MAX_LIFETIME)] | SkipJsonSchema[None] = Field(
        None, alias=_SECONDS, description="How long the file is kept."
    )

    @model_validator(mode="after")
    def _whole_policy(self) -> FileCreate:
        if self.anchor is not None and self.seconds is None:
            raise PydanticCustomError("half_a_policy", "it is missing beside the anchor")
        return self


class FilesQuery(BaseModel):
    """Which files, and which page of them."""

    purpose: Purpose | None = None
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation.")
    limit: int = Field(10_000, ge=1, le=10_000)
    after: str | None = Field(None, description="The last id of the page before.")


class EndpointCreate(Ours):
    """The body of `POST /v1/webhook_endpoints`, as OpenAI documents it."""

    name: EndpointName
    url: WebhookUrl
    event_types: EventTypes


class EndpointUpdate(Ours):
    """What changes of a webhook endpoint."""

    name: EndpointName | None = None
    url: WebhookUrl | None = None
    event_types: EventTypes | None = None
    enabled: bool | None = Field(None, description="Not in OpenAI's API: false disables it, true enables it again.")


class EndpointTest(Ours):
    """Which event a test sends."""

    event_type: EventType


class RotateSecret(Ours):
    """How a secret is replaced."""

    keep_old_secret_active_for_24_hours: bool | None = None


class DeliveriesQuery(PageQuery):
    """Which deliveries, and which page of them."""

    endpoint: str | None = Field(None, description="A webhook endpoint's id, or job: those to a job's own URL.")
    status: DeliveryStatus | None = None

"""The bodies of the calls that jobs make, as callers send them.

What is ours to act on is checked here; all else goes to the LLM as it came.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, Endpoint
from jobs.queues import QueueName
from jobs.settings import MAX_DEADLINE
from jobs.webhook_urls import MAX_URL

#: Members of an OpenAI-shaped body that are ours to act on; the LLM does not get them.
OURS = frozenset({"background", "background_options", "stream", "promptq"})


def _no_stream(value: bool) -> bool:
    if value:
        raise PydanticCustomError("unsupported", "there is nothing to stream here; leave 'stream' out")
    return value


NoStream = Annotated[bool, AfterValidator(_no_stream), WithJsonSchema({"type": "boolean", "enum": [False]})]
MAX_MODEL: Final = 256
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL)]
#: OpenAI's rule: up to 16 pairs, keys of up to 64 and values of up to 512 characters.
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]
Deadline = Annotated[float, Field(gt=0, le=MAX_DEADLINE, allow_inf_nan=False)]
#: How a URL must be written, jobs.webhook_urls says.
WebhookUrl = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL), Field(examples=["https://…"])]
AttemptTimeout = Annotated[float, Field(gt=0, le=MAX_DEADLINE, allow_inf_nan=False)]


class Ours(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class OpenAIs(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class JobOptions(Ours):
    """PromptQ's own options on an OpenAI-shaped door (the SDK's ``extra_body={"promptq": {...}}``)."""

    queue: QueueName | None = None
    deadline_seconds: Deadline | None = Field(None, description="The job fails if it has not ended by then.")
    attempt_timeout_seconds: AttemptTimeout | None = Field(
        None, description="An attempt that takes longer is ended, and repeated as after any time-out of the LLM."
    )
    webhook_url: WebhookUrl | None = Field(
        None, description="Where to tell of the job's end, signed with your webhook secret (`/v1/webhook_secret`)."
    )


class Body(OpenAIs):
    model: ModelName
    stream: bool | None = None
    promptq: JobOptions | None = None


class BackgroundOptions(OpenAIs):
    """OpenAI's options of a background response."""

    completion_window: Literal["soonest", "2h", "8h"] | None = Field(
        None, description="soonest runs on the queue interactive, 2h on default, 8h on bulk."
    )


class ResponseBody(Body):
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
    previous_response_id: str | None = Field(None, description="The response that this one continues.")
    store: bool | None = Field(
        None, description="false: nobody can look the response up; only who waits for it gets it."
    )

    @model_validator(mode="after")
    def _has_prompt(self) -> ResponseBody:
        if "input" not in self.model_fields_set and self.prompt is None:
            raise PydanticCustomError("no_prompt", "neither input nor prompt is given")
        return self


class ChatBody(Body):
    """The body of `POST /v1/chat/completions`, as OpenAI documents it."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    metadata: Metadata | None = None


class CompletionBody(Body):
    """The body of `POST /v1/completions`, as OpenAI documents it."""

    prompt: str | list[Any]


class EmbeddingBody(Body):
    """The body of `POST /v1/embeddings`, as OpenAI documents it."""

    stream: NoStream | None = None
    input: str | list[Any]


BODIES: dict[Endpoint, type[Body]] = {
    RESPONSES: ResponseBody,
    CHAT_COMPLETIONS: ChatBody,
    COMPLETIONS: CompletionBody,
    EMBEDDINGS: EmbeddingBody,
}

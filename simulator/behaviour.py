"""What a model name makes the simulator do. Any name not listed here answers normally, `sim` among them.

=====================  =================================================================================
model                  behaviour
=====================  =================================================================================
`sim-400`              400 `invalid_request_error` with `param` "temperature"
`sim-401`              401 with code `invalid_api_key`
`sim-403`              403 with code `unsupported_country_region_territory`
`sim-404`              404 with code `model_not_found`
`sim-429`              429 with code `rate_limit_exceeded` and no `Retry-After`
`sim-429-retry-after`  the same with `Retry-After: 1`
`sim-500`              500 `server_error`
`sim-503`              503 `server_error`
`sim-refusal`          400 with code `content_policy_violation`
`sim-hang`             no answer until the client goes away
`sim-cut`              the connection is closed without an answer
`sim-truncated`        headers that announce all of the body, half of it, then the connection is closed;
                       a stream ends in its middle
`sim-stall`            half of a stream, then nothing until the client goes away; elsewhere as `sim-hang`
`sim-stream-error`     a stream has an `error` event in its middle, and ends; elsewhere 500 `server_error`
`sim-breaks-N`         the first N calls for one input as `sim-truncated`, later ones normally
`sim-garbage`          200 with a `text/html` body that is not JSON
`sim-wrong-shape`      200 with JSON that was not promised: a list
`sim-incomplete`       responses: `status` "incomplete" with reason `max_output_tokens`; chat completions
                       and completions: `finish_reason` "length"; embeddings: a normal answer
`sim-failed`           responses: 200 with `status` "failed" and an `error`; elsewhere: a normal answer
`sim-tool`             chat completions: calls the first function that is offered, with the last user message as
                       ``{"prompt": …}``, until a tool's output is the last message; elsewhere a normal answer
`sim-flaky-N`          the first N calls for one input answer 500, later ones normally
                       (``POST /stats/reset`` starts the count again)
`sim-slow-SECONDS`     a normal answer with that latency, such as `sim-slow-2.5`
=====================  =================================================================================

Each failure, like each answer, comes after the latency that is set.
"""

import re
from dataclasses import dataclass
from enum import Enum

from simulator.errors import INVALID, ApiError, invalid_request, overloaded, server_error


class Fault(Enum):
    """A way to break the promise of an HTTP answer."""

    HANG = "sim-hang"
    CUT = "sim-cut"
    TRUNCATED = "sim-truncated"
    STALL = "sim-stall"
    STREAM_ERROR = "sim-stream-error"
    GARBAGE = "sim-garbage"
    WRONG_SHAPE = "sim-wrong-shape"


class Ending(Enum):
    """How a generated answer ends; the value is the `status` of a response."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one model does; the defaults are a normal answer.

    latency: seconds instead of the latency that is set. failures: how many first calls for one input answer 500;
    breaks: how many break off.
    tool: whether it calls a function that is offered.
    """

    ending: Ending = Ending.COMPLETED
    error: ApiError | None = None
    fault: Fault | None = None
    latency: float | None = None
    failures: int = 0
    tool: bool = False
    breaks: int = 0


_LIMIT = "Rate limit reached for requests."


def _rate_limited(headers: dict[str, str]) -> ApiError:
    return ApiError(429, _LIMIT, type="requests", code="rate_limit_exceeded", headers=headers)


_ERRORS = {
    "sim-400": invalid_request("Unsupported value: 'temperature'.", param="temperature", code="unsupported_value"),
    "sim-401": ApiError(401, "Incorrect API key provided.", type=INVALID, code="invalid_api_key"),
    "sim-403": ApiError(
        403,
        "Country, region, or territory not supported.",
        type="request_forbidden",
        code="unsupported_country_region_territory",
    ),
    "sim-404": ApiError(404, "The model `sim-404` does not exist.", type=INVALID, code="model_not_found"),
    "sim-429": _rate_limited({}),
    "sim-429-retry-after": _rate_limited({"Retry-After": "1"}),
    "sim-500": server_error(),
    "sim-503": overloaded(),
    "sim-refusal": invalid_request(
        "Your request was rejected as a result of our safety system.", code="content_policy_violation"
    ),
}

_NORMAL = Behaviour()
_FIXED = {
    "sim": _NORMAL,
    **{model: Behaviour(error=error) for model, error in _ERRORS.items()},
    **{fault.value: Behaviour(fault=fault) for fault in Fault},
    "sim-incomplete": Behaviour(ending=Ending.INCOMPLETE),
    "sim-failed": Behaviour(ending=Ending.FAILED),
    "sim-tool": Behaviour(tool=True),
}
_FLAKY = re.compile(r"sim-flaky-(\d{1,9})", re.ASCII)
_BREAKS = re.compile(r"sim-breaks-(\d{1,9})", re.ASCII)
_SLOW = re.compile(r"sim-slow-(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)

MODELS = (*_FIXED, "sim-flaky-1", "sim-breaks-1", "sim-slow-1")


def behaviour_of(model: str) -> Behaviour:
    """Return what a model does; a name with no behaviour of its own answers normally."""
    if not model.startswith("sim"):
        return _NORMAL
    if flaky := _FLAKY.fullmatch(model):
        return Behaviour(failures=int(flaky[1]))
    if breaks := _BREAKS.fullmatch(model):
        return Behaviour(breaks=int(breaks[1]))
    if slow := _SLOW.fullmatch(model):
        return Behaviour(latency=float(slow[1]))
    return _FIXED.get(model, _NORMAL)

"""One call to an endpoint, read from its request body."""

import json
import time
from dataclasses import dataclass

from simulator.behaviour import Behaviour, Ending, behaviour_of
from simulator.errors import invalid_request
from simulator.prompts import count_tokens, prompt_hash
from simulator.wire import JsonObject

MAX_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked for. `key` is the prompt hash, `created` the arrival in whole seconds since the epoch."""

    body: JsonObject
    model: str
    key: str
    behaviour: Behaviour
    created: int

    @property
    def ending(self) -> Ending:
        """How the answer ends."""
        return self.behaviour.ending

    @property
    def stream(self) -> bool:
        """Whether the client asked for a stream of events."""
        return self.body.get("stream") is True

    @property
    def choices(self) -> int:
        """How many choices the client wants for each prompt; raises ApiError when that is out of bounds."""
        number = self.body.get("n")
        if number is None:
            return 1
        if not isinstance(number, int) or not 1 <= number <= MAX_CHOICES:
            raise invalid_request(f"'n' must be an integer from 1 to {MAX_CHOICES}.", param="n")
        return number


def parse_call(raw: bytes) -> Call:
    """Return the call that a request body describes; raises ApiError (400) when it is no JSON object with a model."""
    try:
        body = json.loads(raw)
        key = prompt_hash(body) if isinstance(body, dict) else ""
    except (ValueError, RecursionError) as error:
        raise invalid_request("We could not parse the JSON body of your request.") from error
    if not isinstance(body, dict):
        raise invalid_request("The body of your request must be a JSON object.")
    model = required(body, "model")
    if not isinstance(model, str) or not model:
        raise invalid_request("'model' must be a string that is not empty.", param="model")
    return Call(body=body, model=model, key=key, behaviour=behaviour_of(model), created=int(time.time()))


def required(body: JsonObject, name: str) -> object:
    """Return a parameter of a body; raises ApiError (400) when it is missing or null."""
    value = body.get(name)
    if value is None:
        raise invalid_request(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return value


def reply(prompt: str) -> str:
    """Return the text that answers a prompt; it holds all of the prompt."""
    return f"Simulated answer to: {prompt}"


def output_tokens(replies: list[str]) -> int:
    """Return the number of tokens that the replies to one call cost."""
    return sum(map(count_tokens, replies))

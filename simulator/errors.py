"""Failures in the error shape of the OpenAI API."""

from collections.abc import Mapping

from aiohttp import web

from simulator.wire import json_answer

INVALID = "invalid_request_error"


class ApiError(Exception):
    """Raised when a call has to be answered with an HTTP error status and an OpenAI error body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


def invalid_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the 400 for a request that can't be right, naming the parameter at fault when there is one."""
    return ApiError(400, message, type=INVALID, param=param, code=code)


def server_error() -> ApiError:
    """Return the 500 of a server that failed by itself."""
    return ApiError(500, "The server had an error while processing your request.", type="server_error")


def overloaded() -> ApiError:
    """Return the 503 of a server that is down or overloaded."""
    return ApiError(503, "The server is overloaded or not ready yet.", type="server_error")


def error_answer(error: ApiError) -> web.Response:
    """Return the HTTP answer for an error."""
    return json_answer(error.body, status=error.status, headers=error.headers)

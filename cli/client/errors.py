"""What a command that talks to the API ends with when it cannot do what it was asked."""

from __future__ import annotations

from typing import IO, Any

import click


class ClientError(click.ClickException):
    """Raised when the API cannot be reached, or refuses; shown as ``error: message (code)`` (exit code 1)."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error to stderr."""
        click.echo(f"error: {self.message}" + (f" ({self.code})" if self.code else ""), file=file, err=True)


class Unreachable(ClientError):
    """Raised when there is no connection to the API, or it was cut."""

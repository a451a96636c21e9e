"""What can keep the stack from starting."""

from __future__ import annotations

from typing import IO, Any

import click


class StackError(click.ClickException):
    """Raised when the stack cannot start; the message says what to do about it (exit code 1)."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print ``error: message`` to stderr."""
        click.echo(f"error: {self.message}", file=file, err=True)


class Interrupted(Exception):
    """Raised when a signal asks to stop while the stack is still starting."""

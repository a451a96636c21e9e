"""Asking before something that costs, or cannot be undone."""

from __future__ import annotations

import sys

import click


def check_possible(*, yes: bool) -> None:
    """Raise a usage error if nobody can be asked and nobody has agreed in advance."""
    if not yes and not on_terminal():
        raise click.UsageError("this asks before it begins, and there is no terminal to ask on: agree with --yes")


def agreed(question: str, *, yes: bool) -> bool:
    """Ask on stderr, unless ``yes``; raises `click.Abort` on Ctrl-C."""
    return yes or click.confirm(question, err=True)


def on_terminal() -> bool:
    """Whether a question is seen and can be answered."""
    return sys.stdin.isatty() and sys.stderr.isatty()

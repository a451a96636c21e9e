"""The console script ``promptq``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import click

COMMANDS = ("up", "submit", "status", "cancel", "jobs", "batch", "dead-letters", "queues", "webhooks")


class Commands(click.Group):
    """Commands by name, each loaded from its module when it is used: ``up`` alone imports for half a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of --help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"cli.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command


def _version() -> str:
    try:
        return version("promptq")
    except PackageNotFoundError:
        return "(not installed: running from a source tree)"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(_version(), prog_name="promptq")
def main() -> None:
    """PromptQ: a queue for LLM prompts.

    \b
    promptq up                                  start everything, in the foreground
    promptq submit "Why is the sky blue?" --wait
    promptq status ID                           one job
    promptq jobs                                the newest jobs
    promptq batch run FILE -o RESULTS           a file of prompts; also: status, cancel, list
    promptq dead-letters                        jobs that failed for good; also: retry, purge
    promptq queues                              how long the queues are; also: pause, resume
    promptq webhooks listen                     receive, verify and print events; also: list, deliveries

    Every command has its own --help.
    """

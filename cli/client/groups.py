"""Commands that have commands of their own."""

from __future__ import annotations

import click


class ListGroup(click.Group):
    """A group that lists when no command of it is named: ``queues --json`` is ``queues list --json``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before options of the list; ``--help`` stays the group's own."""
        first = args[0] if args else None
        if first is None or (first.startswith("-") and first not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)

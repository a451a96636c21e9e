"""What ``promptq up`` shows on the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.stack.processes import Child

_COLOURS = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan", "bright_magenta")
_WIDTH_OF_A_FILE = 140


class Screen:
    """Speaks to the user: progress and the table on stdout, deaths on stderr."""

    def __init__(self) -> None:
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)
        self._live: Live | None = None
        self._colours: dict[str, str] = {}

    @contextmanager
    def starting(self, names: list[str]) -> Iterator[None]:
        """Show a spinner (on a terminal) or one line while the parts start."""
        text = f"starting {', '.join(names)}"
        if not self._out.is_terminal:
            self.say(text)
            yield
            return
        # No refresh thread: children are forked from this process, which must stay single-threaded.
        with Live(Spinner("dots", text), console=self._out, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def tick(self) -> None:
        """Move the spinner on, if there is one."""
        if self._live is not None:
            with suppress(OSError):
                self._live.refresh()

    def say(self, text: str) -> None:
        """Print one plain line."""
        self._print(Text(text))

    def line(self, name: str, line: str) -> None:
        """Print a line of a part's output, prefixed by its name."""
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        self._print(Text.assemble((f"{name:>10} | ", colour), line))

    def simulated(self) -> None:
        """Say loudly that no LLM is behind the answers."""
        self._out.print(
            Panel(
                "Every answer comes from PromptQ's built-in simulator, not from an LLM.\n"
                "For real answers set OPENAI_API_KEY, or OPENAI_BASE_URL for any OpenAI-compatible server, and start "
                "again without --simulator.",
                title="ANSWERS ARE SIMULATED",
                style="bold yellow",
            )
        )

    def ready(
        self,
        children: list[Child],
        *,
        elsewhere: dict[str, str],
        logs: Path,
        api_url: str,
        open_access: bool,
        webhook_allow: str | None,
        flower_login: str | None,
    ) -> None:
        """Print the table of parts, an example, and the line that begins with ``ready``."""
        table = Table(title="PromptQ", title_justify="left")
        table.add_column("part", style="bold", no_wrap=True)
        table.add_column("address", overflow="fold")
        table.add_column("pid", justify="right", no_wrap=True)
        table.add_column("log", no_wrap=True)
        for child in children:
            table.add_row(child.name, child.part.address or "-", str(child.pid), child.log.name)
        for name, address in elsewhere.items():
            table.add_row(name, address, "-", "(not started here)")
        self._out.print(table)
        self.say(f"logs in   {logs}")
        if flower_login is not None:
            user, _, password = flower_login.partition(",")[0].partition(":")
            self.say(f"Flower    log in as {user} with {password}")
        if webhook_allow is not None:
            self.say(f"webhooks  may go to this machine, by http too (PROMPTQ_WEBHOOK_ALLOW={webhook_allow})")
        self.say("try       " + _example(api_url, open_access=open_access))
        self.say(f"or        promptq submit 'Explain Kubernetes in simple terms.' --wait --url {api_url}")
        self.say("ready     Ctrl-C stops everything")

    def death(self, child: Child) -> None:
        """Say loudly that a part died, and show the end of its log."""
        panel = Panel(
            Text("\n".join(child.last_lines()) or "(it printed nothing)"),
            title=Text(f"{child.name} {child.describe_end()}; it is not restarted, the others go on"),
            subtitle=Text(str(child.log)),
            style="bold red",
        )
        with suppress(OSError):
            self._err.print(panel)

    def _print(self, text: Text) -> None:
        # A terminal that was closed fails: there is nobody to tell, and the parts are stopped in order all the same.
        with suppress(OSError):
            self._out.print(text, soft_wrap=True)


def _example(api_url: str, *, open_access: bool) -> str:
    body = '{"prompt": "Explain Kubernetes in simple terms."}'
    key = "" if open_access else ' -H "Authorization: Bearer $PROMPTQ_API_KEY"'
    return f"curl -X POST {api_url}/generate -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:  # rich would fold at 80 columns, in the middle of an address
        console = Console(stderr=stderr, highlight=False, width=_WIDTH_OF_A_FILE)
    return console

"""Reading the parts' log files."""

from __future__ import annotations

from pathlib import Path

_MOST = 64 * 1024


def tail(path: Path, *, start: int = 0, lines: int = 15) -> list[str]:
    """Return the last ``lines`` lines that were written to ``path`` since the offset ``start`` (bytes)."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(start, end - _MOST))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


class Follower:
    """Yields the lines that appear in a log file after the offset ``start`` (bytes), whole lines only."""

    def __init__(self, path: Path, *, start: int) -> None:
        self._path = path
        self._offset = start

    def new_lines(self) -> list[str]:
        """Return the lines that were finished since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(_MOST)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _MOST:  # a line longer than we read at once is shown in pieces
            end = _MOST
        self._offset += end
        return data[:end].decode(errors="replace").splitlines()

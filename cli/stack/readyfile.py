"""The JSON file that tells scripts where a ready stack answers."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from cli.stack.errors import StackError


class ReadyFile:
    """The file at ``path`` (None: no file), which exists only while the stack is ready."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> ReadyFile:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.unlink(missing_ok=True)
            except OSError as error:
                raise StackError(f"cannot write {self._path}: {error.strerror} (--ready-file)") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def write(self, content: Mapping[str, object]) -> None:
        """Write the file in one step, so that nobody sees half of it; only the user may read it, for it holds a key."""
        if self._path is None:
            return
        try:
            handle, draft = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            with os.fdopen(handle, "w") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
            Path(draft).replace(self._path)
        except OSError as error:
            raise StackError(f"cannot write {self._path}: {error.strerror} (--ready-file)") from error

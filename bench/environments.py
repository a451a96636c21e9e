"""Environments below ``.venv/bench``, one for each peer, pinned with hashes and made when they are first needed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

PEERS: Final = Path(__file__).parent / "peers"
_ROOT: Final = Path(__file__).parents[1] / ".venv" / "bench"


def python_of(program: Path) -> Path:
    """The Python of the environment for a folder's program, which is made anew if its ``requirements.txt`` changed."""
    folder, pins = _ROOT / program.name, program / "requirements.txt"
    stamp = folder / ".pins"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"Installing what {program.name} needs into .venv/bench/{program.name} (once)…", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*install, "-r", str(pins)], check=True)
        stamp.write_text(digest)
    return python

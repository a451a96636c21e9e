"""Environments below ``.venv/bench``, pinned with hashes and made when they are first needed.

One for each peer; and ours, which hold what the images hold: the environment of this repository has tools of all sorts
besides, which libraries load where they find them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

PEERS: Final = Path(__file__).parent / "peers"
_REPOSITORY: Final = Path(__file__).parents[1]
_ROOT: Final = _REPOSITORY / ".venv" / "bench"


def peers_python(name: str) -> str:
    """The Python of a peer's environment."""
    return _python(name, PEERS / name / "requirements.txt")


def our_python(image: str) -> str:
    """The Python of an environment like an image's: ``api`` or ``worker``. Our modules are the working directory's."""
    return _python(f"promptq-{image}", _REPOSITORY / f"requirements-{image}.txt")


def _python(name: str, pins: Path) -> str:
    """It is made anew if the pins have changed."""
    folder = _ROOT / name
    stamp = folder / ".pins"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    python = str(folder / "bin" / "python")
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"Installing what {name} needs into .venv/bench/{name} (once)…", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*install, "-r", str(pins)], check=True)
        stamp.write_text(digest)
    return python

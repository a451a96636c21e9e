"""The head of an answer waits for its body."""

from __future__ import annotations

import pytest

from api.gunicorn_worker import _Together

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Sent:
    """What a socket was given, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.broken = False

    def sendall(self, data: bytes) -> None:
        """Keep it, or fail when half of it is gone."""
        self.pieces.append(data)
        if self.broken:
            raise BrokenPipeError

    def fileno(self) -> int:
        """Any number."""
        return 7


def through(*pieces: bytes) -> list[bytes]:
    """What leaves when these are sent, and the answer ends."""
    sent = Sent()
    together = _Together(sent)  # type: ignore[arg-type]
    for piece in pieces:
        together.sendall(piece)
    together.flush()
    together.flush()
    return sent.pieces


@pytest.mark.parametrize(
    ("pieces", "left"),
    [
        ([HEAD, b"{}"], [HEAD + b"{}"]),
        ([HEAD, b"{", b"}"], [HEAD + b"{", b"}"]),
        ([HEAD], [HEAD]),
        ([], []),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, b"{}"], [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"{}"]),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"x"],
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"x"],
        ),
    ],
    ids=["whole", "in parts", "no body", "nothing", "100", "chunked"],
)
def test_what_leaves(pieces: list[bytes], left: list[bytes]) -> None:
    """Head and body in one piece; what informs or is sent in chunks at once."""
    assert through(*pieces) == left


def test_what_was_cut_off_is_not_begun_again() -> None:
    """After a send that failed half way nothing more of it leaves."""
    sent = Sent()
    together = _Together(sent)  # type: ignore[arg-type]
    together.sendall(HEAD)
    sent.broken = True
    with pytest.raises(BrokenPipeError):
        together.sendall(b"{}")
    together.flush()
    assert sent.pieces == [HEAD + b"{}"]


def test_all_else_is_the_sockets_own() -> None:
    """Who looks at the connection sees it."""
    assert _Together(Sent()).fileno() == 7  # type: ignore[arg-type]

"""How answers look on the wire, where gunicorn's way of sending them was changed."""

from __future__ import annotations

import json
import socket

import httpx2
import pytest

from tests.integration.driving import unique
from tests.processes import Stack


class Wire:
    """One connection to the API, byte by byte."""

    def __init__(self, stack: Stack) -> None:
        url = httpx2.URL(stack.api)
        self._socket = socket.create_connection((url.host, url.port), timeout=10)
        self._key = stack.api_key
        self._read = b""

    def send(self, method: str, path: str, body: bytes = b"", *headers: str) -> None:
        """Send a request."""
        self.head(method, path, len(body), *headers)
        self._socket.sendall(body)

    def head(self, method: str, path: str, length: int, *headers: str) -> None:
        """Send a request's head."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {self._key}"]
        lines += [f"Content-Length: {length}", "Content-Type: application/json", *headers, "", ""]
        self._socket.sendall("\r\n".join(lines).encode())

    def body(self, body: bytes) -> None:
        """Send its body."""
        self._socket.sendall(body)

    def answer(self, *, bodyless: bool = False) -> tuple[int, bytes]:
        """Read an answer: its status and its body."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
        length = 0 if bodyless else length
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return int(head[9:12]), body

    def _more(self) -> None:
        chunk = self._socket.recv(65536)
        assert chunk, "the connection ended"
        self._read += chunk

    def close(self) -> None:
        """Close it."""
        self._socket.close()


@pytest.fixture
def wire(stack: Stack) -> Wire:
    return Wire(stack)


def test_a_caller_who_asks_whether_to_go_on_is_told_so(wire: Wire) -> None:
    """``Expect: 100-continue``: the 100 comes before the body is sent, and the answer after it."""
    body = json.dumps({"prompt": unique()}).encode()
    wire.head("POST", "/v1/jobs", len(body), "Expect: 100-continue")
    assert wire.answer(bodyless=True) == (100, b"")
    wire.body(body)
    status, answer = wire.answer()
    assert (status, json.loads(answer)["object"]) == (202, "job")
    wire.close()


def test_many_answers_on_one_connection(wire: Wire) -> None:
    """With a body, without one (HEAD), refused and found: each whole, one after the other, also if they were sent at
    once."""
    for _ in range(3):
        wire.send("POST", "/v1/jobs", json.dumps({"prompt": unique()}).encode())
        status, answer = wire.answer()
        assert status == 202
        wire.send("HEAD", f"/v1/jobs/{json.loads(answer)['id']}")
        assert wire.answer(bodyless=True) == (200, b"")
        wire.send("POST", "/v1/jobs", b"{")
        assert wire.answer()[0] == 400
        wire.send("GET", "/v1/jobs/none")
        wire.send("GET", "/healthz")
        assert [wire.answer()[0], wire.answer()[0]] == [404, 200]
    wire.close()


def test_a_large_answer_comes_whole(wire: Wire, client: httpx2.Client) -> None:
    """An answer that takes many packets."""
    prompt = "word " * 200_000
    wire.send(
        "POST",
        "/v1/chat/completions",
        json.dumps({"model": "sim-echo", "messages": [{"role": "user", "content": prompt}]}).encode(),
    )
    status, answer = wire.answer()
    assert status == 200
    assert prompt.strip() in json.loads(answer)["choices"][0]["message"]["content"]
    wire.close()

"""Server-sent events, however they are cut on their way."""

from __future__ import annotations

import pytest

from worker.sse import payloads

TEXT = b': hello\n\nevent: a\ndata: {"a":1}\nid: 7\n\ndata:{"b":\ndata: 2}\n\nretry: 5\n\ndata: [DONE]\n\ndata: {"cut":'
FOUND = [b'{"a":1}', b'{"b": 2}', b"[DONE]"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
def test_data_is_found_however_it_is_cut(end: bytes, size: int, bom: bytes) -> None:
    """Each whole event's data comes in one line; comments, other fields and a half event do not."""
    text = bom + TEXT.replace(b"\n", end)
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(payloads([*chunks, b""])) == FOUND


def test_an_event_is_told_as_soon_as_it_is_complete() -> None:
    """Nothing waits for what comes after it."""
    sent: list[bytes] = []

    def chunks() -> object:
        for chunk in (b"data: 1\n", b"\nda", b"ta: 2\n\n"):
            sent.append(chunk)
            yield chunk

    found = payloads(chunks())  # type: ignore[arg-type]
    assert (next(found), len(sent)) == (b"1", 2)
    assert (next(found), len(sent)) == (b"2", 3)

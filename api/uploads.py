"""Uploads: a form whose file goes into the storage as it comes, and is never held as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import gevent
from flask import request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.sansio import multipart

from api.bodies import form
from api.requests import FileCreate
from jobs.errors import InvalidRequest, PayloadTooLarge, RequestTimeout
from jobs.files import FileStore
from jobs.storage import Sink

#: What is read at once: between two pieces others have their turn.
_PIECE: Final = 64 * 1024
#: What may stand around the file: boundaries, heads of parts, fields.
_AROUND: Final = 64 * 1024
_MAX_PARTS: Final = 20
_MAX_FIELD: Final = 4096
_MAX_NAME: Final = 255
#: How long (seconds) the next piece is waited for.
_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that has arrived, and what stood beside it."""

    form: FileCreate
    filename: str
    size: int
    #: Its key in the storage.
    content: str
    #: SHA-256 of all that was sent; empty unless it was asked for.
    fingerprint: str


def receive(files: FileStore, *, max_bytes: int, fingerprint: bool) -> Upload:
    """Read the request's form, and write its part ``file`` into the storage piece by piece.

    Raises ``InvalidRequest``, ``PayloadTooLarge``, ``RequestTimeout``, ``StorageUnavailable`` or ``StoreUnavailable``;
    of a file that does not arrive as a whole, or beside fields that are not right, nothing is kept.
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise InvalidRequest("The body must be multipart/form-data, with a part 'file'.")
    fields: dict[str, str] = {}
    file: _File | None = None
    part: _File | _Field | None = None
    with ExitStack() as stack:
        for event in _events(boundary.encode(), max_bytes):
            match event:
                case multipart.File(name="file", filename=filename) if file is None:
                    content = files.reserve()
                    sink = stack.enter_context(files.storage.writer(content))
                    part = file = _File(sink, content, _base_name(filename), max_bytes, hashed=fingerprint)
                case multipart.Field(name="file"):
                    raise InvalidRequest("The part 'file' must be a file: it needs a filename.", param="file")
                case multipart.File(name=name) | multipart.Field(name=name):
                    part = _Field(_new_name(name, {*fields, "file"} if file else {*fields}))
                case multipart.Data(data=data, more_data=more):
                    assert part is not None  # the decoder begins each part with its head
                    part.take(data)
                    if isinstance(part, _Field) and not more:
                        fields[part.name] = part.text()
        if file is None:
            raise InvalidRequest("Missing required parameter: 'file'.", param="file")
        checked = form(FileCreate, fields)
    return Upload(
        form=checked,
        filename=file.filename,
        size=file.size,
        content=file.content,
        fingerprint=file.fingerprint(*sorted(f"{name}={value}" for name, value in fields.items())),
    )


def _events(boundary: bytes, max_bytes: int) -> Iterator[multipart.Event]:
    """What the request's body consists of, as it comes."""
    decoder = multipart.MultipartDecoder(boundary, max_form_memory_size=4 * _PIECE, max_parts=_MAX_PARTS)
    request.max_content_length = max_bytes + _AROUND
    try:
        while True:
            piece = _read()
            decoder.receive_data(piece or None)
            while not isinstance(event := decoder.next_event(), multipart.NeedData):
                yield event
                if isinstance(event, multipart.Epilogue):
                    return
    except RequestEntityTooLarge:
        raise _too_large(max_bytes) from None
    except (ClientDisconnected, ValueError):
        # The decoder's words quote what was sent.
        raise _incomplete() from None


def _read() -> bytes:
    with gevent.Timeout(_PATIENCE, RequestTimeout("The rest of the body did not come. Try again.")):
        return request.stream.read(_PIECE)


class _File:
    """The part that is the file."""

    def __init__(self, sink: Sink, content: str, filename: str, max_bytes: int, *, hashed: bool) -> None:
        self.content = content
        self.filename = filename
        self.size = 0
        self._sink = sink
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256() if hashed else None

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._max_bytes:
            raise _too_large(self._max_bytes)
        if self._digest is not None:
            self._digest.update(data)
        self._sink.write(data)

    def fingerprint(self, *beside: str) -> str:
        if self._digest is None:
            return ""
        return hashlib.sha256("\n".join((self._digest.hexdigest(), self.filename, *beside)).encode()).hexdigest()


@dataclass
class _Field:
    """A part that is a text."""

    name: str
    _data: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > _MAX_FIELD:
            raise InvalidRequest(f"A field of this form has at most {_MAX_FIELD} bytes.", param=self.name)

    def text(self) -> str:
        try:
            return self._data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("A field of this form is not valid UTF-8.", param=self.name) from None


def _new_name(name: str | None, known: set[str]) -> str:
    if not name or len(name) > _MAX_NAME:
        raise InvalidRequest(f"Each part of the form needs a name of at most {_MAX_NAME} characters.")
    if name in known:
        raise InvalidRequest(f"The form has two parts '{name}'.", param=name)
    return name


def _base_name(filename: str) -> str:
    """The file's name without its folders, as some clients send them, and without what no name should hold."""
    base = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in base if character.isprintable())[:_MAX_NAME].strip()
    return name or "upload"


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A file has at most {max_bytes} bytes (PROMPTQ_MAX_FILE_BYTES).", param="file")


def _incomplete() -> InvalidRequest:
    return InvalidRequest("The body is not valid multipart/form-data, or ends before it is complete.")

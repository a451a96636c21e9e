"""``/v1/files``: what batches read and write, in OpenAI's shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from flask import Blueprint, Response, jsonify, request

from api.answers import DeletedFile, FileAnswer, FileList
from api.bodies import query
from api.disconnects import cut_off
from api.doors.ids import known_file_id
from api.intake import idempotency_key
from api.openapi import operation
from api.rendering import file_answer, page
from api.requests import FileCreate, FilesQuery
from api.services import owner, services
from api.uploads import receive
from jobs.files import DEFAULT_LIFETIME, NewFile
from jobs.storage import Chunks

blueprint = Blueprint("files", __name__)

#: How long (seconds) a client may take to read a piece of a content, and the bytes of a piece.
_STALLED: Final = 60.0
_PIECE: Final = 64 * 1024
#: Whatever a file holds, no browser shall take it for a page of ours.
_HEADERS: Final = {
    "Content-Type": "application/octet-stream",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


@blueprint.post("/v1/files")
@operation(
    "Upload a file",
    form=FileCreate,
    answers={200: FileAnswer},
    idempotent=True,
    errors=(408, 501),
)
def create() -> Response:
    """Keep a file, at most PROMPTQ_MAX_FILE_BYTES long. It is written as it comes.

    Those of purpose `batch` expire after 30 days unless you say otherwise, and others not at all.
    """
    found = services()
    key = idempotency_key()
    upload = receive(found.files, max_bytes=found.settings.max_file_bytes, fingerprint=key is not None)
    lifetime = upload.form.seconds or DEFAULT_LIFETIME.get(upload.form.purpose)
    file = found.files.create(
        NewFile(
            owner=owner(),
            filename=upload.filename,
            purpose=upload.form.purpose,
            size=upload.size,
            content=upload.content,
            lifetime=lifetime,
            idempotency_key=key,
            fingerprint=upload.fingerprint,
        )
    )
    return jsonify(file_answer(file))


@blueprint.get("/v1/files")
@operation("List files", answers={200: FileList}, query=FilesQuery, errors=(404,))
def list_() -> Response:
    """Your files, newest first unless you say otherwise."""
    asked = query(FilesQuery)
    found = services().files.page(
        owner(),
        purpose=asked.purpose,
        ascending=asked.order == "asc",
        limit=asked.limit,
        after=known_file_id(asked.after, param="after") if asked.after is not None else None,
    )
    return jsonify(page([file_answer(file) for file in found.files], has_more=found.has_more))


@blueprint.get("/v1/files/<file_id>")
@operation("Get a file", answers={200: FileAnswer}, errors=(404,))
def get(file_id: str) -> Response:
    """What is known of a file."""
    return jsonify(file_answer(services().files.get(known_file_id(file_id), owner())))


@blueprint.get("/v1/files/<file_id>/content")
@operation("Get a file's content", answers={200: bytes}, errors=(404, 501))
def content(file_id: str) -> Response:
    """The file's bytes, as they came."""
    files = services().files
    file = files.get(known_file_id(file_id), owner())
    response = Response(_unless_it_stalls(files.read(file), dict(request.environ)), headers=_HEADERS)
    response.content_length = file.size
    # As werkzeug does for files of its own (RFC 6266, appendix D): a plain name for those who know no other.
    plain = file.filename.encode("ascii", "replace").decode().replace("?", "_")
    names = {"filename": plain, "filename*": f"UTF-8''{quote(file.filename, safe='')}"}
    response.headers.set("Content-Disposition", "attachment", **names)
    return response


def _unless_it_stalls(chunks: Chunks, environ: dict[str, Any]) -> Iterator[bytes]:
    """The chunks, for as long as the client reads: one that does not would hold the file for ever."""
    with contextlib.closing(chunks), cut_off(environ, _STALLED) as goes_on:
        for chunk in chunks:
            for start in range(0, len(chunk), _PIECE):
                goes_on()
                yield chunk[start : start + _PIECE]


@blueprint.delete("/v1/files/<file_id>")
@operation("Delete a file", answers={200: DeletedFile}, errors=(404, 501))
def delete(file_id: str) -> Response:
    """Remove a file and its content."""
    services().files.delete(known_file_id(file_id), owner())
    return jsonify({"id": file_id, "object": "file", "deleted": True})

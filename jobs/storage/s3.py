"""Contents as objects in a bucket of an S3-compatible store. The only module that imports boto3, which is an extra."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.errors import ContentMissing
from jobs.settings import Settings
from jobs.storage import ABANDONED_AFTER, CHUNK, FOLDERS, S3_SCHEME, checked_folder, checked_key, unavailable

_log = structlog.get_logger("promptq.storage")
#: A part of a multipart upload, of which S3 takes 10,000: 50 GB. All but the last have one size (R2 wants that), the
#: smallest that S3 takes. What is smaller is put in one request.
_PART_BYTES: Final = 5 * 1024 * 1024
_CONNECTIONS: Final = 100
_MISSING: Final = ("NoSuchKey", "404", "NotFound")
_NO_SUCH_UPLOAD: Final = "NoSuchUpload"


class S3Storage:
    """A ``Storage`` in a bucket, below a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        """``client``: of boto3, for S3. ``prefix``: without slashes around it, or empty."""
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def from_settings(cls, settings: Settings) -> S3Storage:
        """The bucket and prefix of ``PROMPTQ_STORAGE``; without keys in the settings, boto3 looks for them itself."""
        bucket, _, prefix = settings.storage.removeprefix(S3_SCHEME).partition("/")
        secret = settings.s3_secret_access_key
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=None if secret is None else secret.get_secret_value(),
            config=Config(
                connect_timeout=3,
                read_timeout=20,
                retries={"mode": "standard", "total_max_attempts": 3},
                max_pool_connections=_CONNECTIONS,
                tcp_keepalive=True,
                # Hosts for each bucket take a wildcard in DNS, which stores of one's own seldom have.
                s3={"addressing_style": "path" if settings.s3_endpoint else "auto"},
                # Checksums in trailers are Amazon's own, and many other stores refuse them.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return cls(client, bucket, prefix.strip("/"))

    @contextlib.contextmanager
    def writer(self, key: str, /) -> Iterator[_Upload]:
        """As ``Storage.writer``: one request, or a multipart upload that is aborted on an error."""
        upload = _Upload(self._client, self._bucket, self._name(key))
        try:
            yield upload
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def read(self, key: str, /, offset: int = 0) -> _Chunks:
        """As ``Storage.read``."""
        name = self._name(key)
        try:
            with _errors("read"):
                found = self._client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes={offset}-")
        except _BeyondTheEnd:
            return _Chunks(None)
        return _Chunks(found["Body"])

    def size(self, key: str, /) -> int:
        """As ``Storage.size``."""
        name = self._name(key)
        with _errors("size"):
            return int(self._client.head_object(Bucket=self._bucket, Key=name)["ContentLength"])

    def delete(self, key: str, /) -> None:
        """As ``Storage.delete``."""
        name = self._name(key)
        with _errors("delete"):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def keys(self, folder: str, /) -> Iterator[str]:
        """As ``Storage.keys``."""
        below = f"{self._prefix}{checked_folder(folder)}/"
        with _errors("list"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(self._prefix)

    def sweep(self, older_than: float = ABANDONED_AFTER, /) -> int:
        """As ``Storage.sweep``: multipart uploads that began so long ago."""
        before, aborted = time.time() - older_than, 0
        with _errors("sweep"):
            pages = self._client.get_paginator("list_multipart_uploads")
            # Without a prefix the bucket may be others' as well.
            for folder in FOLDERS:
                for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/"):
                    for upload in page.get("Uploads", ()):
                        if upload["Initiated"].timestamp() < before:
                            _abort(self._client, self._bucket, upload["Key"], upload["UploadId"])
                            aborted += 1
        return aborted

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)


class _Upload:
    """Content on its way, of which at most one part is held in memory."""

    def __init__(self, client: Any, bucket: str, name: str) -> None:
        self._client = client
        self._where = {"Bucket": bucket, "Key": name}
        self._held = bytearray()
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes, /) -> None:
        """As ``Sink.write``."""
        rest = memoryview(data)
        while rest:
            room = _PART_BYTES - len(self._held)
            self._held += rest[:room]
            rest = rest[room:]
            if len(self._held) == _PART_BYTES:
                # Handed over, not copied: so many bytes are held for each upload that is on its way.
                part, self._held = self._held, bytearray()
                self._send(part)

    def finish(self) -> None:
        with _errors("write"):
            if self._id is None:
                self._client.put_object(**self._where, Body=self._held)
                return
        if self._held:
            self._send(self._held)
        with _errors("write"):
            self._client.complete_multipart_upload(
                **self._where, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )

    def abort(self) -> None:
        if self._id is None:
            return
        try:
            _abort(self._client, self._where["Bucket"], self._where["Key"], self._id)
        except (ClientError, BotoCoreError) as error:
            # The error that brought us here is the one to tell of; what is left, a sweep takes.
            _log.warning("storage.failed", step="abort", error=_name_of(error))

    def _send(self, part: bytearray) -> None:
        with _errors("write"):
            if self._id is None:
                self._id = self._client.create_multipart_upload(**self._where)["UploadId"]
            number = len(self._parts) + 1
            sent = self._client.upload_part(**self._where, UploadId=self._id, PartNumber=number, Body=part)
            self._parts.append({"ETag": sent["ETag"], "PartNumber": number})


class _Chunks:
    """The rest of a body that is being received; None where there is none."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        if self._body is None:
            raise StopIteration
        try:
            with _errors("read"):
                chunk: bytes = self._body.read(CHUNK)
        except BaseException:
            self.close()
            raise
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Let go of the connection."""
        body, self._body = self._body, None
        if body is not None:
            body.close()


class _BeyondTheEnd(Exception):
    """Raised when the range that was asked for begins where the object ends."""


def _abort(client: Any, bucket: str, name: str, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload_id)
    except ClientError as error:
        # It has ended meanwhile.
        if _name_of(error) != _NO_SUCH_UPLOAD:
            raise


def _name_of(error: Exception) -> str:
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else type(error).__name__


@contextlib.contextmanager
def _errors(operation: str) -> Iterator[None]:
    """Turn boto3's errors into ours."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        name = _name_of(error)
        if name == "InvalidRange":
            raise _BeyondTheEnd from error
        if name in _MISSING and operation in ("read", "size"):
            raise ContentMissing("The content of this file is gone.") from error
        _log.error("storage.failed", step=operation, error=name)
        raise unavailable() from error

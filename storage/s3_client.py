"""A client of S3 with bounded waits, and its errors as ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import SecretStr

from storage.base import BlobNotFoundError, StorageUnavailableError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# S3 itself has this one; any other endpoint wants a name and mostly does not care which.
_REGION = "us-east-1"
_CONNECTIONS = 200
ABSENT = ("404", "NoSuchKey")
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the bucket is. Credentials left out are found as boto3 finds them: profile, role, metadata."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None  # None: where ``endpoint_url`` is set
    prefix: str = ""  # of every key, without slashes around it
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key_id: str | None = None
    gives_links: bool = False
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None


def make_session(options: S3Options) -> Session:
    return Session(
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=_plain(options.secret_access_key),
        aws_session_token=_plain(options.session_token),
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def make_client(session: Session, options: S3Options, *, connect_s: float, read_s: float, tries: int) -> S3Client:
    """A client whose requests are tried at most ``tries`` times, each with ``connect_s`` and ``read_s`` of silence."""
    path_style = options.path_style if options.path_style is not None else options.endpoint_url is not None
    return session.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region or session.region_name or _REGION,
        config=Config(
            signature_version="s3v4",
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": tries},
            max_pool_connections=_CONNECTIONS,
            tcp_keepalive=True,
            # Checksums in trailers are Amazon's own; the signed SHA-256 of the payload is the protocol's.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if path_style else "virtual", "payload_signing_enabled": True},
        ),
    )


def encryption_fields(options: S3Options) -> dict[str, Any]:
    """The fields of a PUT that ask for encryption at rest; without them the bucket's own setting applies."""
    fields: dict[str, Any] = {}
    if options.sse:
        fields["ServerSideEncryption"] = options.sse
    if options.sse_kms_key_id:
        fields["SSEKMSKeyId"] = options.sse_kms_key_id
    return fields


def code_of(error: ClientError) -> str:
    """S3's code or HTTP status; only plain words are repeated, whatever a server calls its fault."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else "unknown"


@contextlib.contextmanager
def as_storage_errors(verb: str, *, absent: str = "") -> Iterator[None]:
    """Turn errors into ours; with ``absent`` a missing object means that this key has no blob."""
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if absent and code in ABSENT:
            raise BlobNotFoundError(absent) from None
        raise StorageUnavailableError(f"cannot {verb}: {code}") from None
    except Exception as error:  # noqa: BLE001 - a server that is not S3 can make botocore raise anything, such as a TypeError
        # Only the name: the messages contain addresses and paths.
        raise StorageUnavailableError(f"cannot {verb}: {type(error).__name__}") from None

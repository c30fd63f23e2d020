"""Which store the settings ask for. Everything else knows only ``storage.base.Store``."""

from __future__ import annotations

from core.settings import Settings, SettingsError
from storage.base import StorageUnavailableError, Store
from storage.local import LocalStore


def open_store(settings: Settings) -> Store:
    """The store of this installation.

    Raises SettingsError, and StorageUnavailableError for a folder that cannot be made.
    """
    if settings.storage == "local":
        return LocalStore(settings.blobs_dir)
    return _s3(settings)


def _s3(settings: Settings) -> Store:
    # boto3 takes 27 MB and half a second: only processes that use it pay.
    from storage.s3 import S3Store
    from storage.s3_client import S3Options

    if settings.s3_sse_kms_key_id and settings.s3_sse != "aws:kms":
        raise SettingsError("DARKROOM_S3_SSE_KMS_KEY_ID goes with DARKROOM_S3_SSE=aws:kms")
    if (settings.aws_access_key_id is None) != (settings.aws_secret_access_key is None):
        raise SettingsError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together")
    options = S3Options(
        bucket=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        path_style=settings.s3_path_style,
        prefix=settings.s3_prefix,
        sse=settings.s3_sse,
        sse_kms_key_id=settings.s3_sse_kms_key_id,
        gives_links=settings.s3_serve == "redirect",
        access_key_id=settings.aws_access_key_id,
        secret_access_key=settings.aws_secret_access_key,
        session_token=settings.aws_session_token,
    )
    try:
        return S3Store(options)
    except StorageUnavailableError as error:
        hint = "look at DARKROOM_S3_ENDPOINT_URL, DARKROOM_S3_REGION and the variables of AWS"
        raise SettingsError(f"the store on S3: {error}; {hint}") from None

"""Every variable the service reads, in one place; ``.env.example`` lists them for operators.

Only entry points call :func:`load`; everything below receives values. Providers' own variables
(``OPENAI_API_KEY`` and the like) are read by their adapters from the same environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """The environment is not usable; the message names every variable at fault."""


def _blank_is_unset(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Port = Annotated[int, Field(ge=1, le=65535)]
MaybePort = Annotated[Port | None, BeforeValidator(_blank_is_unset)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
MaybeCount = Annotated[Count | None, BeforeValidator(_blank_is_unset)]
MaybeSecret = Annotated[SecretStr | None, BeforeValidator(_blank_is_unset)]
MaybePath = Annotated[Path | None, BeforeValidator(_blank_is_unset)]
MaybeText = Annotated[str | None, BeforeValidator(_blank_is_unset)]
MaybeFlag = Annotated[bool | None, BeforeValidator(_blank_is_unset)]
# It must not hold a password: addresses are shown, secrets never.
MaybeOrigin = Annotated[Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")] | None, BeforeValidator(_blank_is_unset)]
MaybeUrl = Annotated[Annotated[str, Field(pattern=r"^https?://[^\s@#]+$")] | None, BeforeValidator(_blank_is_unset)]
MIN_JWT_SECRET_BYTES = 32  # as long as the digest of HS256, which RFC 7518 asks for


class Settings(BaseSettings):
    """Values of one process, read once. Times in seconds, sizes in bytes, money in micro-credits."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, populate_by_name=True)

    # Where state lives and where we listen
    var: Path = Field(default=Path("var"), alias="DARKROOM_VAR")
    host: str = Field(default="127.0.0.1", alias="DARKROOM_HOST")
    port: Port = Field(default=8000, alias="DARKROOM_PORT")
    flower_port_set: MaybePort = Field(default=None, alias="DARKROOM_FLOWER_PORT")
    # The path below which Flower answers behind a proxy, without slashes around it
    flower_prefix: str = Field(default="", pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$", alias="DARKROOM_FLOWER_PREFIX")
    sandbox_port_set: MaybePort = Field(default=None, alias="DARKROOM_SANDBOX_PORT")
    postgres_port_set: MaybePort = Field(default=None, alias="DARKROOM_POSTGRES_PORT")
    redis_port_set: MaybePort = Field(default=None, alias="DARKROOM_REDIS_PORT")
    postgres_user: MaybeText = Field(default=None, alias="DARKROOM_POSTGRES_USER")
    public_url: MaybeText = Field(default=None, alias="DARKROOM_PUBLIC_URL")
    # Keys of signed links, ``id:hex``, the newest first; where left out, the database has them
    signing_keys_set: MaybeSecret = Field(default=None, alias="DARKROOM_SIGNING_KEYS")
    # Further hosts that requests may name, for links where there is no public URL
    allowed_hosts: str = Field(default="", alias="DARKROOM_ALLOWED_HOSTS")
    # Origins whose pages may call this service; * is every one
    cors_origins: str = Field(default="", alias="DARKROOM_CORS_ORIGINS")
    # How long signed links live at least; at most twice as long
    link_life_s: int = Field(default=3600, ge=60, le=604_800, alias="DARKROOM_LINK_LIFE_S")

    # External servers; where left out, `darkroom up` starts its own
    database_url_set: MaybeSecret = Field(default=None, alias="DATABASE_URL")
    # The role that owns the tables, for migrations, backup and restore; where left out, that of DATABASE_URL
    migrate_database_url_set: MaybeSecret = Field(default=None, alias="DARKROOM_MIGRATE_DATABASE_URL")
    redis_url_set: MaybeSecret = Field(default=None, alias="REDIS_URL")
    broker_url_set: MaybeSecret = Field(default=None, alias="CELERY_BROKER_URL")

    # Where images are stored: a folder of var, or a bucket
    storage: Literal["local", "s3"] = Field(default="local", alias="DARKROOM_STORAGE")
    s3_bucket_set: MaybeText = Field(default=None, alias="DARKROOM_S3_BUCKET")
    s3_prefix: str = Field(default="", pattern=r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$", alias="DARKROOM_S3_PREFIX")
    s3_endpoint_url: MaybeOrigin = Field(default=None, alias="DARKROOM_S3_ENDPOINT_URL")
    s3_region: MaybeText = Field(default=None, alias="DARKROOM_S3_REGION")
    s3_path_style: MaybeFlag = Field(default=None, alias="DARKROOM_S3_PATH_STYLE")
    s3_sse: Annotated[Literal["AES256", "aws:kms"] | None, BeforeValidator(_blank_is_unset)] = Field(
        default=None, alias="DARKROOM_S3_SSE"
    )
    s3_sse_kms_key_id: MaybeText = Field(default=None, alias="DARKROOM_S3_SSE_KMS_KEY_ID")
    s3_serve: Literal["proxy", "redirect"] = Field(default="proxy", alias="DARKROOM_S3_SERVE")
    aws_access_key_id: MaybeText = Field(default=None, alias="AWS_ACCESS_KEY_ID")
    aws_secret_access_key: MaybeSecret = Field(default=None, alias="AWS_SECRET_ACCESS_KEY")
    aws_session_token: MaybeSecret = Field(default=None, alias="AWS_SESSION_TOKEN")

    # Processes
    web_workers: int = Field(default=1, ge=1, le=64, alias="DARKROOM_WEB_WORKERS")
    worker_processes: int = Field(default=1, ge=1, le=64, alias="DARKROOM_WORKERS")
    worker_name: MaybeText = Field(default=None, alias="DARKROOM_WORKER_NAME")
    worker_pool: int = Field(default=1000, ge=10, le=10_000, alias="DARKROOM_WORKER_POOL")
    control_slots: int = Field(default=200, ge=1, alias="DARKROOM_CONTROL_SLOTS")
    provider_slots: int = Field(default=200, ge=1, alias="DARKROOM_PROVIDER_SLOTS")
    drain_s: float = Field(default=8.0, ge=0, alias="DARKROOM_DRAIN_S")
    decoders: int = Field(default=2, ge=1, le=64, alias="DARKROOM_DECODERS")
    db_pool_size: int = Field(default=20, ge=2, le=500, alias="DARKROOM_DB_POOL_SIZE")
    # False: nothing is prepared on the server, for a pooler such as PgBouncer in transaction mode
    db_prepare: bool = Field(default=True, alias="DARKROOM_DB_PREPARE")
    task_events: bool = Field(default=True, alias="DARKROOM_TASK_EVENTS")
    log_level: str = Field(default="INFO", alias="DARKROOM_LOG_LEVEL")
    log_format: Literal["text", "json"] = Field(default="text", alias="DARKROOM_LOG_FORMAT")
    access_log: bool = Field(default=False, alias="DARKROOM_ACCESS_LOG")
    # Traces by OpenTelemetry, to where its own variables say; where left out, they are on once those say where
    traces: MaybeFlag = Field(default=None, alias="DARKROOM_TRACES")
    # A port of its own for /metrics, which one process of each machine serves; and who may read them
    metrics_port: MaybePort = Field(default=None, alias="DARKROOM_METRICS_PORT")
    metrics_host: str = Field(default="127.0.0.1", alias="DARKROOM_METRICS_HOST")
    metrics_token_set: MaybeSecret = Field(default=None, alias="DARKROOM_METRICS_TOKEN")
    # How often one worker of the fleet runs the audit; 0 is never
    audit_hours: float = Field(default=24, ge=0, le=8760, alias="DARKROOM_AUDIT_HOURS")

    # Prices: unit price = catalogue cost x markup, at least the minimum; 1 credit = 1 US cent
    markup: float = Field(default=1.0, gt=0, alias="DARKROOM_MARKUP")
    minimum_unit_price_microcredits: int = Field(default=100_000, ge=0, alias="DARKROOM_MINIMUM_UNIT_PRICE")
    cancel_charge: str = Field(default="full", pattern="^(full|none)$", alias="CANCEL_CHARGE")
    admin_credits: int = Field(default=10_000, ge=0, alias="DARKROOM_ADMIN_CREDITS")

    # Accounts' own keys of providers: what seals them, the newest first; where left out, none can be stored or used
    own_keys_secret_set: MaybeSecret = Field(default=None, alias="DARKROOM_OWN_KEYS_SECRET")
    # What an image by such a key costs: micro-credits, or a share of the price such as 5%
    own_key_fee: str = Field(
        default="0", pattern=r"^(\d{1,12}|(\d{1,2}(\.\d{1,4})?|100)%)$", alias="DARKROOM_OWN_KEY_FEE"
    )

    # Orders
    default_model: MaybeText = Field(default=None, alias="DARKROOM_DEFAULT_MODEL")
    # The model of predictions that name neither a model nor a version
    replicate_model: MaybeText = Field(default=None, alias="REPLICATE_MODEL_ID")
    catalog_local_set: MaybePath = Field(default=None, alias="DARKROOM_CATALOG_LOCAL")
    # How often one worker of the fleet compares the catalogue with the upstreams' own lists; 0 is never
    catalog_check_hours: float = Field(default=24, ge=0, le=8760, alias="DARKROOM_CATALOG_CHECK_HOURS")
    max_image_bytes: int = Field(default=10 * 2**20, ge=1024, alias="DARKROOM_MAX_IMAGE_BYTES")
    max_request_bytes: int = Field(default=16 * 2**20, ge=1024, alias="DARKROOM_MAX_REQUEST_BYTES")
    max_attempts: int = Field(default=4, ge=1, le=20, alias="DARKROOM_MAX_ATTEMPTS")
    max_wait_s: int = Field(default=3600, ge=0, le=604_800, alias="DARKROOM_MAX_WAIT_S")
    default_deadline_s: int = Field(default=86_400, ge=1, alias="DARKROOM_DEFAULT_DEADLINE_S")
    publish_window: int = Field(default=32, ge=1, alias="DARKROOM_PUBLISH_WINDOW")
    # What a job counts in its account's share of a provider
    fair_share_by: Literal["jobs", "images", "price"] = Field(default="jobs", alias="DARKROOM_FAIR_SHARE_BY")
    fallbacks: str = Field(default="", alias="DARKROOM_FALLBACKS")
    # Equal orders with a seed are answered from the account's earlier job, how long after its end, at which price
    result_cache: bool = Field(default=False, alias="DARKROOM_RESULT_CACHE")
    result_cache_hours: float = Field(default=24, gt=0, le=8760, alias="DARKROOM_RESULT_CACHE_HOURS")
    result_cache_price_percent: float = Field(default=0, ge=0, le=100, alias="DARKROOM_RESULT_CACHE_PRICE_PERCENT")

    # Answers of other services' APIs that wait for the image: silent at first, then kept alive, for so long in all
    hold_quiet_s: float = Field(default=15, ge=0, le=600, alias="DARKROOM_HOLD_QUIET_S")
    hold_beat_s: float = Field(default=10, ge=0.1, le=600, alias="DARKROOM_HOLD_BEAT_S")
    hold_most_s: float = Field(default=3600, ge=1, le=86_400, alias="DARKROOM_HOLD_MOST_S")
    # How images are answered on the OpenAI routes where the request does not say
    openai_response_format: Literal["b64_json", "url"] = Field(
        default="b64_json", alias="DARKROOM_OPENAI_RESPONSE_FORMAT"
    )

    # How long the images of ended jobs are kept; 0 is forever
    keep_images_days: float = Field(
        default=30,
        ge=0,
        le=36_500,
        alias="DARKROOM_KEEP_IMAGES_DAYS",
        # The second name is the variable's name before; it works as long as the first is not set.
        validation_alias=AliasChoices("DARKROOM_KEEP_IMAGES_DAYS", "DARKROOM_KEEP_PICTURES_DAYS"),
    )
    short_life_s: int = Field(default=600, ge=60, le=86_400, alias="DARKROOM_SHORT_LIFE_S")
    # The upstreams' own answers, kept as long as images
    keep_raw: bool = Field(default=True, alias="DARKROOM_KEEP_RAW")
    keep_inputs_days: float = Field(default=30, ge=0, le=36_500, alias="DARKROOM_KEEP_INPUTS_DAYS")
    # How long an upload is kept that no one sends again, 0 is forever; how many and how much an account may keep
    keep_uploads_days: float = Field(default=30, ge=0, le=36_500, alias="DARKROOM_KEEP_UPLOADS_DAYS")
    max_uploads: int = Field(default=10_000, ge=1, alias="DARKROOM_MAX_UPLOADS")
    max_uploads_bytes: int = Field(default=2**30, ge=1024, alias="DARKROOM_MAX_UPLOADS_BYTES")
    # Of one file of lines that a batch is ordered by
    max_batch_file_bytes: int = Field(default=100 * 2**20, ge=1024, alias="DARKROOM_MAX_BATCH_FILE_BYTES")

    # Callbacks: hosts that may be private, at any port and by http, and how long the log is kept; 0 is forever
    webhook_allowed_hosts: str = Field(default="", alias="DARKROOM_WEBHOOK_ALLOWED_HOSTS")
    keep_deliveries_days: float = Field(default=30, ge=0, le=36_500, alias="DARKROOM_KEEP_DELIVERIES_DAYS")

    # How long the trail of what administrators did is kept; 0 is forever
    keep_admin_actions_days: float = Field(default=0, ge=0, le=36_500, alias="DARKROOM_KEEP_ADMIN_ACTIONS_DAYS")

    # Rules on abuse: how often one worker of the fleet judges them, 0 is never; the operator's own, and how long what
    # tripped is kept, 0 is forever
    abuse_every_s: float = Field(default=60, ge=0, le=3600, alias="DARKROOM_ABUSE_EVERY_S")
    abuse_rules_set: MaybePath = Field(default=None, alias="DARKROOM_ABUSE_RULES")
    keep_abuse_events_days: float = Field(default=90, ge=0, le=36_500, alias="DARKROOM_KEEP_ABUSE_EVENTS_DAYS")
    # Where the operator is told, by URLs with commas between, and the secrets that sign it, the newest first
    operator_webhook_url: str = Field(default="", alias="DARKROOM_OPERATOR_WEBHOOK_URL")
    operator_webhook_secret_set: MaybeSecret = Field(default=None, alias="DARKROOM_OPERATOR_WEBHOOK_SECRET")

    # Screening: which screens judge orders, in which time, what follows where one does not answer ("refuse": the caller
    # is asked to come back), how long an opinion counts for the same question, and how long refusals are kept
    screens: str = Field(default="", alias="DARKROOM_SCREENS")
    screening_timeout_s: float = Field(default=5.0, ge=0.1, le=60, alias="DARKROOM_SCREENING_TIMEOUT_S")
    screening_on_failure: Literal["refuse", "pass"] = Field(default="refuse", alias="DARKROOM_SCREENING_ON_FAILURE")
    screening_cache_s: float = Field(default=60.0, ge=0, le=3600, alias="DARKROOM_SCREENING_CACHE_S")
    keep_refusals_days: float = Field(default=30, ge=0, le=36_500, alias="DARKROOM_KEEP_REFUSALS_DAYS")
    screen_words: MaybePath = Field(default=None, alias="DARKROOM_SCREEN_WORDS")
    # The URL may hold a secret in its query
    screen_hook_url: MaybeSecret = Field(default=None, alias="DARKROOM_SCREEN_HOOK_URL")
    screen_hook_secret: MaybeSecret = Field(default=None, alias="DARKROOM_SCREEN_HOOK_SECRET")
    screen_hook_private: bool = Field(default=False, alias="DARKROOM_SCREEN_HOOK_PRIVATE")
    screen_hook_images: Literal["digest", "data"] = Field(default="digest", alias="DARKROOM_SCREEN_HOOK_IMAGES")
    moderation_base_url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")] = Field(
        default="https://api.openai.com/v1", alias="DARKROOM_MODERATION_BASE_URL"
    )
    moderation_api_key: MaybeSecret = Field(default=None, alias="DARKROOM_MODERATION_API_KEY")
    moderation_model: str = Field(default="omni-moderation-latest", alias="DARKROOM_MODERATION_MODEL")
    moderation_categories: str = Field(default="", alias="DARKROOM_MODERATION_CATEGORIES")

    # Tokens of an issuer next to our keys; the second names are those of services that this one replaces
    jwt_secret: MaybeSecret = Field(
        default=None,
        alias="DARKROOM_JWT_SECRET",
        validation_alias=AliasChoices("DARKROOM_JWT_SECRET", "JWT_SECRET", "JWT_SECRET_KEY"),
    )
    jwt_jwks_url: MaybeUrl = Field(
        default=None,
        alias="DARKROOM_JWT_JWKS_URL",
        validation_alias=AliasChoices("DARKROOM_JWT_JWKS_URL", "JWT_JWKS_URL", "JWKS_URL"),
    )
    # Several are divided by commas, and one of them is enough
    jwt_audience: MaybeText = Field(
        default=None,
        alias="DARKROOM_JWT_AUDIENCE",
        validation_alias=AliasChoices("DARKROOM_JWT_AUDIENCE", "JWT_AUDIENCE"),
    )
    jwt_issuer: MaybeText = Field(
        default=None, alias="DARKROOM_JWT_ISSUER", validation_alias=AliasChoices("DARKROOM_JWT_ISSUER", "JWT_ISSUER")
    )
    jwt_leeway_s: float = Field(default=30.0, ge=0, le=60, alias="DARKROOM_JWT_LEEWAY_S")
    jwt_account_claim: Annotated[Literal["sub", "customer_id"] | None, BeforeValidator(_blank_is_unset)] = Field(
        default=None, alias="DARKROOM_JWT_ACCOUNT_CLAIM"
    )
    jwt_create_accounts: bool = Field(default=False, alias="DARKROOM_JWT_CREATE_ACCOUNTS")
    jwt_account_credits: int = Field(default=0, ge=0, alias="DARKROOM_JWT_ACCOUNT_CREDITS")
    jwt_allow_admin: bool = Field(default=False, alias="DARKROOM_JWT_ALLOW_ADMIN")

    # Limits of callers
    rate_limit_account: str = Field(default="600/minute", alias="DARKROOM_RATE_LIMIT_ACCOUNT")
    rate_limit_submit: str = Field(default="6000/minute", alias="DARKROOM_RATE_LIMIT_SUBMIT")
    rate_limit_enhance: str = Field(default="20/minute", alias="DARKROOM_RATE_LIMIT_ENHANCE")
    rate_limit_wrong_keys: str = Field(default="30/minute", alias="DARKROOM_RATE_LIMIT_WRONG_KEYS")
    rate_limit_address: str = Field(default="600/minute", alias="DARKROOM_RATE_LIMIT_ADDRESS")
    # Of the whole installation; not set: no limit
    rate_limit_global: MaybeText = Field(default=None, alias="DARKROOM_RATE_LIMIT_GLOBAL")
    max_in_flight: MaybeCount = Field(default=None, alias="DARKROOM_MAX_IN_FLIGHT")
    images_per_minute: MaybeCount = Field(default=None, alias="DARKROOM_IMAGES_PER_MINUTE")
    budget_day_credits: MaybeCount = Field(default=None, alias="DARKROOM_BUDGET_DAY_CREDITS")
    trusted_proxies: int = Field(default=0, ge=0, alias="DARKROOM_TRUSTED_PROXIES")
    # Without a trusted proxy in front; 0 is no limit
    connections_per_address: int = Field(default=500, ge=0, alias="DARKROOM_CONNECTIONS_PER_ADDRESS")
    # Streams of events and calls that wait for a job, in one web process: in all, and of one account
    max_waiting: int = Field(default=4000, ge=1, le=100_000, alias="DARKROOM_MAX_WAITING")
    max_waiting_per_account: int = Field(default=3000, ge=1, le=100_000, alias="DARKROOM_MAX_WAITING_PER_ACCOUNT")
    litellm_cost_header: bool = Field(default=False, alias="DARKROOM_LITELLM_COST_HEADER")
    body_timeout_s: float = Field(default=30.0, gt=0, alias="DARKROOM_BODY_TIMEOUT_S")

    @property
    def flower_port(self) -> int:
        return self.flower_port_set or self.port + 1

    @property
    def sandbox_port(self) -> int:
        return self.sandbox_port_set or self.port + 2

    @property
    def postgres_port(self) -> int:
        return self.postgres_port_set or self.port + 3

    @property
    def redis_port(self) -> int:
        return self.redis_port_set or self.port + 4

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL. Raises SettingsError when DATABASE_URL is not set."""
        return _psycopg(_required(self.database_url_set, "DATABASE_URL"), "DATABASE_URL")

    @property
    def migrate_database_url(self) -> str:
        """The SQLAlchemy URL of the role that owns the tables. Raises SettingsError as :attr:`database_url`."""
        if self.migrate_database_url_set is None:
            return self.database_url
        return _psycopg(self.migrate_database_url_set.get_secret_value(), "DARKROOM_MIGRATE_DATABASE_URL")

    @property
    def redis_url(self) -> str:
        return _required(self.redis_url_set, "REDIS_URL")

    @property
    def broker_url(self) -> str:
        return self.broker_url_set.get_secret_value() if self.broker_url_set else self.redis_url

    @property
    def catalog_local(self) -> Path:
        """The operator's own catalogue file; it need not exist."""
        return self.catalog_local_set or self.var / "catalog.local.yaml"

    @property
    def base_url(self) -> str:
        """The address before our paths in absolute links, without a slash; this machine's own where none is set."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def webhook_hosts(self) -> frozenset[str]:
        """The hosts that callbacks may reach although they are private. Raises SettingsError."""
        # Not above: it brings urllib3, which must not come before gevent's patches, as gunicorn's settings do.
        from core.outbound.urls import hosts_of

        try:
            return hosts_of(self.webhook_allowed_hosts)
        except ValueError as error:
            raise SettingsError(f"DARKROOM_WEBHOOK_ALLOWED_HOSTS: {error}") from None

    @property
    def abuse_rules(self) -> Path:
        """The operator's own rules on abuse; the file need not exist where it is not named."""
        return self.abuse_rules_set or self.var / "abuse.yaml"

    @property
    def operator_webhooks(self) -> tuple[str, ...]:
        return tuple(url.strip() for url in self.operator_webhook_url.split(",") if url.strip())

    @property
    def operator_webhook_secrets(self) -> tuple[str, ...]:
        secret = self.operator_webhook_secret_set
        return tuple(each.strip() for each in secret.get_secret_value().split(",")) if secret else ()

    @property
    def signing_keys(self) -> str | None:
        return self.signing_keys_set.get_secret_value() if self.signing_keys_set else None

    @property
    def own_keys_secret(self) -> str | None:
        return self.own_keys_secret_set.get_secret_value() if self.own_keys_secret_set else None

    @property
    def metrics_token(self) -> str | None:
        return self.metrics_token_set.get_secret_value() if self.metrics_token_set else None

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Where /metrics has a port of its own; None where it has none."""
        return None if self.metrics_port is None else (self.metrics_host, self.metrics_port)

    @property
    def blobs_dir(self) -> Path:
        return self.var / "blobs"

    @property
    def s3_bucket(self) -> str:
        """Raises SettingsError when it is not set."""
        if self.s3_bucket_set is None:
            raise SettingsError("DARKROOM_STORAGE is s3, but DARKROOM_S3_BUCKET is not set")
        return self.s3_bucket_set


def _required(secret: SecretStr | None, variable: str) -> str:
    if secret is None:
        raise SettingsError(f"{variable} is not set (`darkroom up` starts its own server when it is absent)")
    return secret.get_secret_value()


def _psycopg(url: str, variable: str) -> str:
    """Accept the URL forms that operators paste; psycopg 3 is the only driver. Raises SettingsError."""
    for prefix in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    raise SettingsError(f"{variable} must begin with postgresql://")


# Ends of the names of variables that hold secrets. Each of them may be given as a file instead, by its name with
# _FILE behind it. No name of others' that ends in _FILE looks like that, but the one below.
_SECRET_ENDS = ("_API_KEY", "_API_TOKEN", "_SECRET", "_ACCESS_KEY", "_ACCESS_KEY_ID", "_SESSION_TOKEN", "_AUTH")
_SECRETS = (
    "DARKROOM_METRICS_TOKEN",
    "DATABASE_URL",
    "DARKROOM_MIGRATE_DATABASE_URL",
    "REDIS_URL",
    "CELERY_BROKER_URL",
    "HF_TOKEN",
    "DARKROOM_KEY",
    "DARKROOM_SIGNING_KEYS",
    "DARKROOM_SCREEN_HOOK_URL",  # its query may hold one
    "OTEL_EXPORTER_OTLP_HEADERS",  # a collector's key is among them
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)
_NUMBERED = re.compile(r"_[2-9]\Z")
SECRET_FILE_MAX_BYTES = 64 * 1024


def may_be_a_file(variable: str) -> bool:
    """Whether the value of a variable may stand in a file that ``<variable>_FILE`` names: the secrets' may."""
    plain = _NUMBERED.sub("", variable)
    return plain in _SECRETS or plain.endswith(_SECRET_ENDS)


def with_dotenv(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` over the ``.env`` of the working folder, which also holds the providers' variables.

    Secrets that are given as files are read, and the variables that name the files are left out. Raises SettingsError
    naming every variable that is given twice or whose file cannot be read.
    """
    file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    faults: list[str] = []
    merged = {**_with_secrets(file, faults), **_with_secrets(environ, faults)}
    if faults:
        raise SettingsError("bad settings: " + "; ".join(faults))
    return merged


def _with_secrets(given: Mapping[str, str], faults: list[str]) -> dict[str, str]:
    """One source of variables with the secrets that its files hold; what is wrong is added to ``faults``."""
    found = dict(given)
    for name in given:
        secret = name.removesuffix("_FILE")
        if secret == name or not may_be_a_file(secret):
            continue
        path = found.pop(name).strip()
        if not path:
            continue
        if given.get(secret, "").strip():
            faults.append(f"{secret} and {name} are both set: leave one out")
            continue
        try:
            found[secret] = _secret_of(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            faults.append(f"{name}: {path} cannot be read: {reason}")
    return found


def _secret_of(path: Path) -> str:
    """The trimmed text of a file. Raises OSError, ValueError."""
    with path.open("rb") as file:
        data = file.read(SECRET_FILE_MAX_BYTES + 1)
    if len(data) > SECRET_FILE_MAX_BYTES:
        raise ValueError("it is too large for a secret")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if not text or "\0" in text:
        raise ValueError("it is empty" if not text else "it holds a NUL")
    return text


def load() -> Settings:
    """Read the environment (and ``.env``). Raises SettingsError naming every bad variable."""
    environ = with_dotenv(os.environ)
    secrets = {name: environ[name] for name in _names() if name in environ and may_be_a_file(name)}
    try:
        found = Settings(**secrets)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError(f"bad settings: {faults}") from None
    if wrong := "; ".join((*_wrong_addresses(found), *_wrong_tokens(found))):
        raise SettingsError(f"bad settings: {wrong}")
    return found


def _names() -> Iterator[str]:
    """Every name of a variable, the second ones behind the first."""
    for field in Settings.model_fields.values():
        choices = field.validation_alias
        others = choices.choices if isinstance(choices, AliasChoices) else ()
        yield from dict.fromkeys([str(field.alias), *map(str, others)])


def _wrong_tokens(settings: Settings) -> Iterator[str]:
    """What would let in more than the operator means to, a sentence each."""
    secret = settings.jwt_secret
    if secret and len(secret.get_secret_value().encode()) < MIN_JWT_SECRET_BYTES:
        least = f"at least {MIN_JWT_SECRET_BYTES} bytes"
        yield f"DARKROOM_JWT_SECRET (or JWT_SECRET): it must have {least}, as `openssl rand -hex 32` makes"
    if settings.jwt_jwks_url and not settings.jwt_audience:
        yield (
            "DARKROOM_JWT_JWKS_URL needs DARKROOM_JWT_AUDIENCE: its issuer signs tokens for other services with the"
            " same keys"
        )


_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_REDIS = ("redis", "rediss", "sentinel")
_SCHEMES = {
    "DATABASE_URL": _POSTGRES,
    "DARKROOM_MIGRATE_DATABASE_URL": _POSTGRES,
    "REDIS_URL": _REDIS,
    "CELERY_BROKER_URL": (*_REDIS, "amqp", "amqps"),
}


def _wrong_addresses(settings: Settings) -> Iterator[str]:
    """What no server can be found by, a sentence each, without the address: it holds a password."""
    given = {
        "DATABASE_URL": settings.database_url_set,
        "DARKROOM_MIGRATE_DATABASE_URL": settings.migrate_database_url_set,
        "REDIS_URL": settings.redis_url_set,
        "CELERY_BROKER_URL": settings.broker_url_set,
    }
    for variable, url in given.items():
        if url is None:
            continue
        scheme, found, rest = url.get_secret_value().partition("://")
        if not found or scheme not in _SCHEMES[variable]:
            yield f"{variable}: it must begin with {' or '.join(f'{each}://' for each in _SCHEMES[variable][:2])}"
        elif scheme in ("redis", "rediss") and not _PORT.match(rest):
            yield f"{variable}: its port is no number"
    if settings.storage == "s3" and settings.s3_bucket_set is None:
        yield "DARKROOM_STORAGE is s3, but DARKROOM_S3_BUCKET is not set"


# user:password@host:port/database; the host may be an IPv6 address in brackets.
_PORT = re.compile(r"(?:[^/]*@)?(?:\[[^\]/]*\]|[^:/@\[]*)(?::\d*)?(?:[/?]|\Z)")

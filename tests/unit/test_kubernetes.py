"""The manifests of deploy/kubernetes, held to Kubernetes' schemas, to KEDA's and to the code."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from app.cli.agents.command import mcp
from core.settings import Settings, may_be_a_file
from core.tracing import switch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OLDEST = "1.29"
KEDA = Draft202012Validator(json.loads((FOLDER / "keda.schema.json").read_text()))
KUBECTL = shutil.which("kubectl")
Document = dict[str, Any]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def documents(folder: str) -> list[Document]:
    """Every document of a folder; what only kustomize reads is none."""
    files = sorted(path for path in (FOLDER / folder).glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


BASE = documents("base")
MCP = documents("components/mcp")
ALL = BASE + MCP + documents("overlays/example")
BY_NAME = {(each["kind"], each["metadata"]["name"]): each for each in ALL}
WORKLOADS = {each["metadata"]["name"]: each for each in BASE + MCP if each["kind"] in ("Deployment", "Job")}
PODS: dict[str, Document] = {name: each["spec"]["template"]["spec"] for name, each in WORKLOADS.items()}
CONTAINERS = [
    pytest.param(each, id=f"{name}-{each['name']}")
    for name, pod in PODS.items()
    for each in chain(pod.get("initContainers", ()), pod["containers"])
]


def assert_valid(document: Document) -> None:
    if document["apiVersion"].startswith("keda.sh/"):
        assert [error.message for error in KEDA.iter_errors(document)] == []
        return
    for version in (OLDEST, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)


def configuration() -> dict[str, str]:
    lines = (FOLDER / "base" / "configuration.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# ---------------------------------------------------------------- schemas


@pytest.mark.parametrize("document", ALL, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_is_what_the_schemas_say(document: Document) -> None:
    assert_valid(document)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ScaledObject", ("spec", "maxReplicas")),
        ("TriggerAuthentication", ("spec", "secretTargetRefs")),
        ("Deployment", ("spec", "template", "spec", "gracePeriodSeconds")),
    ],
)
def test_a_misspelt_field_is_no_manifest(kind: str, path: tuple[str, ...]) -> None:
    document = json.loads(json.dumps(next(each for each in BASE if each["kind"] == kind)))
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = 3
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        assert_valid(document)


def test_a_query_or_a_threshold_that_keda_would_refuse_is_no_manifest() -> None:
    document = json.loads(json.dumps(BY_NAME["ScaledObject", "darkroom-worker"]))
    document["spec"]["triggers"][0]["metadata"]["targetQueryValue"] = 5
    assert list(KEDA.iter_errors(document))


def test_kustomize_lists_every_file() -> None:
    for folder in ("base", "components/mcp", "overlays/example"):
        listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["resources"]
        files = {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if not name.startswith("..")} == files


def built(overlay: Path) -> list[Document]:
    assert KUBECTL
    asked = [KUBECTL, "kustomize", str(overlay)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")
def test_kustomize_builds_the_overlay_and_the_tools_for_agents_where_it_names_them(tmp_path: Path) -> None:
    plain = built(FOLDER / "overlays" / "example")
    assert not any("mcp" in each["metadata"]["name"] for each in plain)
    copy = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, copy)
    file = copy / "overlays" / "example" / "kustomization.yaml"
    file.write_text(
        re.sub(r"^# (components:|  - \.\./\.\./components/mcp)$", r"\1", file.read_text(), flags=re.MULTILINE)
    )
    found = built(file.parent)
    assert [each["metadata"]["name"] for each in found if each["kind"] == "Deployment" and each not in plain] == [
        "darkroom-mcp"
    ]
    for document in found:
        assert_valid(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "darkroom"
        if document["kind"] in ("Deployment", "Job"):
            pod = document["spec"]["template"]["spec"]
            images = {each["image"] for each in chain(pod.get("initContainers", ()), pod["containers"])}
            assert images == {"images.example.org/darkroom:0.1.0"}
    [given] = [each for each in found if each["kind"] == "ConfigMap"]
    assert given["data"].items() >= {"DARKROOM_STORAGE": "s3", "DARKROOM_S3_BUCKET": "images"}.items()
    # A changed value is another name, and so replaces the pods.
    assert re.fullmatch(r"darkroom-\w{10}", given["metadata"]["name"])


# ---------------------------------------------------------------- what it says to our processes


def named_variables() -> Iterator[str]:
    yield from configuration()
    for merged in yaml.safe_load((FOLDER / "overlays/example/kustomization.yaml").read_text())["configMapGenerator"]:
        yield from (literal.partition("=")[0] for literal in merged["literals"])
    for container in CONTAINERS:
        yield from (each["name"] for each in container.values[0].get("env", ()))  # type: ignore[union-attr]


def test_every_variable_is_one_of_ours() -> None:
    known = set(re.findall(r"^([A-Z][A-Z0-9_]*)=", text_of(".env.example"), re.MULTILINE)) | {"FLOWER_BASIC_AUTH"}
    known |= {str(field.alias) for field in Settings.model_fields.values()}
    assert set(named_variables()) - known == set()
    Settings.model_validate(configuration())


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_secret_is_named_and_not_written(container: Document) -> None:
    for each in container.get("env", ()):
        assert may_be_a_file(each["name"]), "what is no secret belongs into configuration.env"
        assert set(each) == {"name", "valueFrom"}
        assert set(each["valueFrom"]) == {"secretKeyRef"}
    assert not any(may_be_a_file(name) for name in configuration())


def test_there_is_no_secret_in_any_file_and_the_page_makes_each() -> None:
    assert not any(each["kind"] == "Secret" for each in ALL)
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    page = text_of("docs/kubernetes.md")
    needed = set(re.findall(r"(?:secretKeyRef|secretRef):\n\s+name: (\S+)", text))
    assert needed == {"darkroom-servers", "darkroom-providers", "darkroom-bucket", "darkroom-flower"}
    assert needed <= set(re.findall(r"create secret generic (\S+)", page))
    keys = set(re.findall(r"secretKeyRef:\n\s+name: \S+\n\s+key: (\w+)", text))
    assert keys <= set(re.findall(r"--from-literal=(\w+)=", page))


@pytest.mark.parametrize("name", ["web", "worker", "flower", "migrate"])
def test_a_pod_runs_what_compose_runs(name: str) -> None:
    [container] = PODS[f"darkroom-{name}"]["containers"]
    compose = yaml.safe_load(text_of("docker-compose.yml"))["services"][name].get("command")
    image = json.loads(re.findall(r"^CMD (\[.*)$", text_of("Dockerfile"), re.MULTILINE)[-1])
    assert container["command"] == (compose or image)


def test_probes_ask_routes_that_there_are() -> None:
    [web] = PODS["darkroom-web"]["containers"]
    asked = {kind: web[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness", "startup")}
    # A restart mends no database, so what decides on one asks the process alone.
    assert asked == {"liveness": "/healthz", "readiness": "/readyz", "startup": "/healthz"}
    for path in set(asked.values()):
        assert f'"{path}"' in text_of("app/api/health.py")


def test_every_pod_has_the_time_that_its_process_takes_to_stop() -> None:
    [web] = PODS["darkroom-web"]["containers"]
    pause_s = int(web["lifecycle"]["preStop"]["exec"]["command"][-1])
    [graceful_s] = re.findall(r"^graceful_timeout = (\d+)", text_of("app/gunicorn_conf.py"), re.MULTILINE)
    assert PODS["darkroom-web"]["terminationGracePeriodSeconds"] >= pause_s + int(graceful_s) + 5
    drain_s = float(configuration()["DARKROOM_DRAIN_S"])
    assert PODS["darkroom-worker"]["terminationGracePeriodSeconds"] >= drain_s + 10
    calls = {
        path.parent.name: max(map(int, re.findall(r"call_timeout_s: (\d+)", path.read_text())))
        for path in (ROOT / "providers" / "upstreams").glob("*/models.yaml")
    }
    assert drain_s > max(seconds for name, seconds in calls.items() if name != "llamaswap")


def test_workers_start_after_the_migration_and_none_leaves_before_its_successor() -> None:
    [gate] = PODS["darkroom-worker"]["initContainers"]
    assert "darkroom db status" in gate["command"][-1]
    for name in ("darkroom-web", "darkroom-worker"):
        assert WORKLOADS[name]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        budget = BY_NAME["PodDisruptionBudget", name]["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"] == WORKLOADS[name]["spec"]["selector"]


def test_there_is_always_a_worker_and_its_number_is_the_autoscalers_alone() -> None:
    scaling = BY_NAME["ScaledObject", "darkroom-worker"]["spec"]
    assert scaling["scaleTargetRef"]["name"] in WORKLOADS
    assert 1 <= scaling["minReplicaCount"] < scaling["maxReplicaCount"]  # workers carry the clock
    assert "replicas" not in WORKLOADS["darkroom-worker"]["spec"]
    # KEDA's fallback counts for average values alone.
    assert {each["metricType"] for each in scaling["triggers"]} == {"AverageValue"}
    names = {each["authenticationRef"]["name"] for each in scaling["triggers"]}
    assert all(("TriggerAuthentication", name) in BY_NAME for name in names)


# ---------------------------------------------------------------- how it is closed in


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_is_closed_in(container: Document) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    written = {each["mountPath"] for each in container["volumeMounts"]}
    assert written == {configuration()["DARKROOM_VAR"], "/tmp"}  # noqa: S108 - a mount of the container


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_the_images_user_and_knows_nothing_of_the_cluster(name: str) -> None:
    pod = PODS[name]
    [uid] = re.findall(r"--uid (\d+)", text_of("Dockerfile"))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(uid)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


POLICIES = {each["metadata"]["name"]: each["spec"] for each in ALL if each["kind"] == "NetworkPolicy"}


def test_nothing_goes_in_or_out_that_is_not_named() -> None:
    assert POLICIES["darkroom-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    [inwards] = POLICIES["darkroom-web"]["ingress"]
    port, _metrics = PODS["darkroom-web"]["containers"][0]["ports"]
    assert inwards["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    open_inwards = {name for name, each in POLICIES.items() if each.get("ingress")}
    assert open_inwards == {"darkroom-web", "darkroom-metrics", "darkroom-mcp", "darkroom-web-of-mcp"}


# ---------------------------------------------------------------- metrics, and tools for agents


def selected(policy: Document, component: str) -> bool:
    """Whether a policy's selector takes the pods of a component."""
    labels = {"app.kubernetes.io/name": "darkroom", "app.kubernetes.io/component": component}
    chosen = policy["podSelector"]
    alike = all(labels.get(key) == value for key, value in chosen.get("matchLabels", {}).items())
    return alike and all(labels.get(each["key"]) in each["values"] for each in chosen.get("matchExpressions", ()))


@pytest.mark.parametrize("name", ["web", "worker"])
def test_prometheus_reaches_the_metrics_of_each_pod_and_nothing_else(name: str) -> None:
    number = int(configuration()["DARKROOM_METRICS_PORT"])
    assert Settings.model_validate(configuration()).metrics_address == ("0.0.0.0", number)  # noqa: S104 - the pod's own
    [container] = PODS[f"darkroom-{name}"]["containers"]
    assert {"name": "metrics", "containerPort": number} in container["ports"]
    service = BY_NAME["Service", f"darkroom-{name}-metrics"]
    # An address of the service's own would ask one pod of several, and call its counters everyone's.
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == WORKLOADS[f"darkroom-{name}"]["spec"]["selector"]["matchLabels"]
    assert [(each["name"], each["targetPort"]) for each in service["spec"]["ports"]] == [("metrics", "metrics")]
    told = service["metadata"]["annotations"]
    assert told["prometheus.io/port"] == str(number)
    assert (told["prometheus.io/scrape"], told["prometheus.io/path"]) == ("true", "/metrics")
    policy = POLICIES["darkroom-metrics"]
    assert selected(policy, name)
    [rule] = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": number}]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_only_what_has_metrics_is_asked_for_them() -> None:
    assert not any(selected(POLICIES["darkroom-metrics"], name) for name in ("flower", "migrate", "mcp"))


def test_spans_may_leave_where_the_overlay_names_the_collector() -> None:
    policy = POLICIES["darkroom-traces"]
    assert all(selected(policy, name) for name in ("web", "worker"))
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 4318}]
    given = configuration()
    assert (given["OTEL_EXPORTER_OTLP_ENDPOINT"], given["DARKROOM_TRACES"]) == ("", "")
    assert not switch.is_on(given, wanted=Settings.model_validate(given).traces), "off until it is named"


def test_tools_for_agents_hold_no_secret_and_reach_web_alone() -> None:
    [container] = PODS["darkroom-mcp"]["containers"]
    assert not {"env", "envFrom"} & set(container)
    command, *words = container["command"]
    with mcp.make_context(command, words[1:]) as context:
        assert (context.params["over_http"], context.params["host"]) == (True, "0.0.0.0")  # noqa: S104 - the pod's own
        assert [context.params["port"]] == [each["containerPort"] for each in container["ports"]]
        host = context.params["server"].removeprefix("http://")
    assert ("Service", host) in BY_NAME
    outwards = [name for name, each in POLICIES.items() if each.get("egress") and selected(each, "mcp")]
    assert outwards == ["darkroom-names", "darkroom-mcp"]
    [rule] = POLICIES["darkroom-mcp"]["egress"]
    [inwards] = POLICIES["darkroom-web-of-mcp"]["ingress"]
    assert selected(rule["to"][0], "web")
    assert selected(inwards["from"][0], "mcp")
    assert selected(POLICIES["darkroom-web-of-mcp"], "web")
    assert rule["ports"] == inwards["ports"] == POLICIES["darkroom-web"]["ingress"][0]["ports"]


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.1", "172.31.255.254", "192.168.1.1", "100.64.0.1", "169.254.169.254", "127.0.0.1"),
        *("0.0.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::1", "fd00::1", "fe80::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"),
    ],
)
def test_no_private_address_is_reached_as_an_upstream(address: str) -> None:
    [rule] = POLICIES["darkroom-outside"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    assert not any(reaches(each["ipBlock"], address) for each in rule["to"])


def test_upstreams_are_reached() -> None:
    [rule] = POLICIES["darkroom-outside"]["egress"]
    for address in ("1.1.1.1", "2606:4700::1111", "172.32.0.1", "192.169.0.1"):
        assert any(reaches(each["ipBlock"], address) for each in rule["to"])


def reaches(block: Document, address: str) -> bool:
    goal = ipaddress.ip_address(address)

    def within(network: str) -> bool:
        return goal in ipaddress.ip_network(network)  # False between the two versions

    return within(block["cidr"]) and not any(map(within, block["except"]))

"""deploy/ against the code: ports, probes, settings, metrics, files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from serving.http.app import _BENTOML, create_app
from serving.observability.drift_metrics import DriftMetrics
from serving.observability.metrics import Metrics
from serving.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
HTTP_PORT = 3000  # BentoML's default
BENTOML_END_S = 5  # what is left after the drain, measured below 2 s


def documents(*paths: Path) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from filter(None, yaml.safe_load_all(path.read_text()))


def all_files() -> list[Path]:
    return [path for path in DEPLOY.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    (one,) = documents(KUBERNETES / "base" / "deployment.yaml")
    return one


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def test_every_setting_that_is_named_exists() -> None:
    known = {f"VGG19_{name.upper()}" for name in Settings.model_fields}
    for path in all_files():
        named = set(re.findall(r"\bVGG19_[A-Z0-9_]+\b", path.read_text()))
        assert named <= known, path


def test_every_metric_that_is_named_exists() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    DriftMetrics(registry)
    known = {
        sample for metric in registry.collect() for sample in sample_names(metric.name, metric.type)
    }
    named: set[str] = set()
    monitoring = DEPLOY / "monitoring"
    for path in (
        monitoring / "grafana" / "dashboard.json",
        monitoring / "prometheus" / "drift.rules.yaml",
        KUBERNETES / "keda.yaml",
    ):
        found = set(re.findall(r"\bvgg19_\w+", path.read_text()))
        assert found <= known, path
        named |= found
    assert {"vgg19_queue_images", "vgg19_requests_total", "vgg19_stale"} <= named


def sample_names(name: str, kind: str) -> list[str]:
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
    return [name + end for end in ends]


def test_ports(deployment: dict[str, Any]) -> None:
    grpc_port = Settings.model_fields["grpc_port"].default
    (container,) = pod_of(deployment)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": HTTP_PORT, "grpc": grpc_port}
    service = next(documents(KUBERNETES / "base" / "service.yaml"))
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert {port["port"] for port in service["spec"]["ports"]} == set(ports.values())
    (policy,) = documents(KUBERNETES / "base" / "network-policy.yaml")
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == set(ports)
    (monitor,) = documents(KUBERNETES / "base" / "monitoring.yaml")
    assert monitor["spec"]["endpoints"][0]["port"] in ports
    (compose,) = documents(DEPLOY / "compose.yaml")
    published = [port.split(":")[-1] for port in compose["x-service"]["ports"]]
    assert published == [str(port) for port in ports.values()]
    assert f"127.0.0.1:{HTTP_PORT}/livez" in compose["x-service"]["healthcheck"]["test"][-1]


def test_probes_ask_what_there_is(deployment: dict[str, Any]) -> None:
    paths = set(_BENTOML) | {route.path for route in create_app().routes}  # type: ignore[attr-defined]
    (container,) = pod_of(deployment)["containers"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    (kserve,) = documents(KUBERNETES / "kserve.yaml")
    probes.append(kserve["spec"]["predictor"]["containers"][0]["readinessProbe"])
    assert {probe["httpGet"]["path"] for probe in probes} <= paths
    assert probes[1]["httpGet"]["path"] == "/readyz"
    assert probes[2]["httpGet"]["path"] == "/livez"


def test_a_pod_has_time_to_drain(deployment: dict[str, Any]) -> None:
    pod = pod_of(deployment)
    (container,) = pod["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    env = {one["name"]: one.get("value") for one in container["env"]}
    drain = float(env["VGG19_SHUTDOWN_GRACE_S"])
    assert pod["terminationGracePeriodSeconds"] >= before + drain + BENTOML_END_S
    (compose,) = documents(DEPLOY / "compose.yaml")
    default = Settings.model_fields["shutdown_grace_s"].default
    assert int(compose["x-service"]["stop_grace_period"].rstrip("s")) >= default + BENTOML_END_S


def test_a_pod_may_do_nothing_it_need_not(deployment: dict[str, Any]) -> None:
    pod = pod_of(deployment)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    (home,) = [env["value"] for env in container["env"] if env["name"] == "BENTOML_HOME"]
    assert any(home.startswith(mount) for mount in mounts)  # what is written lies on a volume
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert compose["services"]["vgg19"]["environment"]["BENTOML_HOME"] == home
    assert compose["services"]["vgg19-gpu"]["environment"]["BENTOML_HOME"] == home


def test_no_pod_gets_the_variables_of_other_services() -> None:
    """Of a Service named vgg19-grpc, VGG19_GRPC_PORT would be one."""
    pods = []
    for path in KUBERNETES.rglob("*.yaml"):
        for document in documents(path):
            if document["kind"] in ("Deployment", "CronJob", "InferenceService"):
                found = list(pods_in(document))
                assert found, path
                pods += [(path, pod) for pod in found]
    whole = [(path, pod) for path, pod in pods if path.name not in PATCHES]
    assert len(whole) == 3
    assert all(pod["enableServiceLinks"] is False for _, pod in whole)


PATCHES = {"gpu.yaml", "shared-store.yaml"}


def pods_in(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for value in part.values():
            yield from pods_in(value)
    if isinstance(part, list):
        for value in part:
            yield from pods_in(value)


def test_everything_that_belongs_together_has_one_name() -> None:
    names = [
        KUBERNETES / "base" / name for name in ("deployment.yaml", "service.yaml", "scaling.yaml")
    ]
    by_kind = {document["kind"]: document for document in documents(*names)}
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
        by_kind["Service"]["spec"]["selector"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "vgg19"
    (scaled,) = documents(KUBERNETES / "keda.yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == by_kind["Deployment"]["metadata"]["name"]


def test_kustomizations_name_every_file_and_no_other() -> None:
    for path in KUBERNETES.rglob("kustomization.yaml"):
        (content,) = documents(path)
        named = [*content.get("resources", []), *content.get("components", [])]
        named += [patch["path"] for patch in content.get("patches", [])]
        for name in named:
            assert (path.parent / name).exists(), (path, name)
        beside = {one.name for one in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert beside <= set(named), path


def test_the_store_that_pods_serve_from_is_the_one_that_jobs_promote_in() -> None:
    component = KUBERNETES / "components" / "redeploy"
    by_kind = {document["kind"]: document for document in documents(component / "retrain.yaml")}
    job = by_kind["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    (home,) = [env["value"] for env in container["env"] if env["name"] == "BENTOML_HOME"]
    (patch,) = documents(component / "shared-store.yaml")
    pod = pod_of(patch)
    (store,) = [env["value"] for env in pod["containers"][0]["env"] if env["name"] == "VGG19_STORE"]
    assert store == f"{home}/models"
    claims = {v["persistentVolumeClaim"]["claimName"] for v in [*pod["volumes"], job["volumes"][0]]}
    assert claims == {by_kind["PersistentVolumeClaim"]["metadata"]["name"]}


def test_refused_and_rolled_back_jobs_are_not_tried_again() -> None:
    from training.redeploy.outcome import REFUSED, ROLLED_BACK

    path = KUBERNETES / "components" / "redeploy" / "retrain.yaml"
    (job,) = [document for document in documents(path) if document["kind"] == "CronJob"]
    (rule,) = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [REFUSED, ROLLED_BACK]


def test_compose_mounts_files_that_exist_and_the_dashboard_is_whole() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            assert (DEPLOY / volume.split(":")[0]).is_file(), volume
    dashboard = json.loads((DEPLOY / "monitoring/grafana/dashboard.json").read_text())
    (datasource,) = documents(DEPLOY / "monitoring/grafana/datasource.yaml")
    uid = datasource["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {uid}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) == 12

"""The alert rules of deploy/, evaluated by Prometheus' own promtool (of Debian's package
prometheus) on what the service exports; skipped where it is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from models.monitoring.features import NAMES
from serving.observability.drift_metrics import DriftMetrics

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "monitoring" / "prometheus" / "drift.rules.yaml"
PROMTOOL = shutil.which("promtool")
DAY = {"images": 5000, "psi": 0.01, "psi_noise": 0.01, "jensen_shannon": 0.0}


def summary(
    *, alarm: str = "", psi: float = 0.01, noise: float = 0.01, accepted: float = 0.9,
    images: int = 1000,
) -> dict[str, Any]:  # fmt: skip
    """What `models.monitoring.summary` says, as far as metrics show it."""
    recent = {"images": images, "psi": psi, "psi_noise": noise, "jensen_shannon": 0.1}
    features = [
        {
            "name": name, "raises_alarm": True, "alarm_at": 1.0 if name == alarm else None,
            "most_evidence": 1.0, "needed_evidence": 900.0,
            "windows": {"recent": recent, "day": DAY},
        }
        for name in NAMES
    ]  # fmt: skip
    return {
        "windows": {"recent": images, "day": 5000}, "features": features,
        "accepted": {"reference": 0.9, "recent": accepted, "day": 0.9},
    }  # fmt: skip


def series_of(instance: str, content: dict[str, Any]) -> list[dict[str, str]]:
    """A replica's samples, the same for an hour."""
    registry = CollectorRegistry()
    DriftMetrics(registry).show(content)
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return [
        {
            "series": sample.name
            + "{"
            + ",".join(f'{k}="{v}"' for k, v in {**sample.labels, "instance": instance}.items())
            + "}",
            "values": f"{sample.value}+0x60",
        }
        for sample in samples
    ]


def failures_of(work: str, a_minute: int) -> list[dict[str, str]]:
    series = f'vgg19_background_failures_total{{work="{work}",instance="r0"}}'
    return [{"series": series, "values": f"0+{a_minute}x60"}]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize(
    ("work", "a_minute", "is_alerted"),
    [("drift", 12, True), ("drift", 0, False), ("the watch over promotions", 12, False)],
)
def test_drift_that_is_not_watched_is_alerted(
    tmp_path: Path, work: str, a_minute: int, is_alerted: bool
) -> None:
    alerts = {"VGG19DriftNotWatched": ""} if is_alerted else {}
    check_alerts(
        tmp_path, failures_of(work, a_minute), alerts, extra={"work": work, "instance": "r0"}
    )


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")
@pytest.mark.parametrize(
    ("replicas", "alerts"),
    [
        ([summary()], {}),
        ([summary(alarm="size", psi=0.4)], {"VGG19Drift": "size"}),
        ([summary(), summary(alarm="size", psi=0.4)], {"VGG19Drift": "size"}),
        ([summary(alarm="size", psi=0.4, noise=0.35)], {}),  # sure, but small, or over again
        ([summary(psi=0.4)], {}),  # large, but not sure
        ([summary(accepted=0.75)], {"VGG19AcceptedShareFell": ""}),
        ([summary(accepted=0.75, images=400)], {}),
        ([summary(accepted=0.85)], {}),
    ],
)
def test_who_is_alerted_when(
    tmp_path: Path, replicas: list[dict[str, Any]], alerts: dict[str, str]
) -> None:
    series = [
        one for number, content in enumerate(replicas) for one in series_of(f"r{number}", content)
    ]
    check_alerts(tmp_path, series, alerts)


def check_alerts(
    tmp_path: Path,
    series: list[dict[str, str]],
    alerts: dict[str, str],
    extra: dict[str, str] | None = None,
) -> None:
    """Args: alerts: names with their feature; none after 5 minutes, and these after 15.
    extra: labels that they have besides."""
    assert PROMTOOL is not None
    content = yaml.safe_load(RULES.read_text())
    for rule in content["groups"][0]["rules"]:
        rule.pop("annotations")  # texts are not what is tested
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(content))
    expected = [
        {
            "exp_labels": {"severity": "warning"}
            | ({"feature": feature} if feature else {})
            | (extra or {})
        }
        for feature in alerts.values()
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [
                {"eval_time": time, "alertname": name, "exp_alerts": found}
                for name in ("VGG19Drift", "VGG19AcceptedShareFell", "VGG19DriftNotWatched")
                for time, found in (("5m", []), ("15m", expected if name in alerts else []))
            ],
        }
    ]
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")
def test_promtool_reads_the_rules() -> None:
    assert PROMTOOL is not None
    subprocess.run([PROMTOOL, "check", "rules", RULES], check=True, capture_output=True)


def test_kubernetes_has_the_same_rules() -> None:
    rule = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "alerts.yaml").read_text())
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_prometheus_is_given_the_rules() -> None:
    prometheus = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text())
    (pattern,) = prometheus["rule_files"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounts = [mount.split(":") for mount in compose["services"]["prometheus"]["volumes"]]
    (place,) = [there for here, there, _ in mounts if here.endswith(RULES.name)]
    assert re.fullmatch(pattern.replace(".", r"\.").replace("*", ".*"), Path(place).name)


def test_alerts_name_metrics_and_labels_that_there_are() -> None:
    registry = CollectorRegistry()
    DriftMetrics(registry).show(summary(alarm="size"))
    known: dict[str, set[tuple[str, str]]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            known.setdefault(sample.name, set()).update(sample.labels.items())
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        for name, labels in re.findall(r"(vgg19_drift_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
                assert (label, value) in known[name], rule["alert"]

"""Which held-out images judge, and what the gate says of a challenger on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.bundle.bundle import Bundle
from models.monitoring.verdict import reason
from models.registry import store
from training.data.checks import Sample
from training.loop.run import Run
from training.redeploy.champion import champion_record, open_champion
from training.redeploy.compare import compare
from training.redeploy.config import RedeployConfig
from training.redeploy.gate import judge
from training.redeploy.job_state import JobState
from training.redeploy.outcome import RedeployError
from training.redeploy.report import disagreements
from training.reporter import Reporter


def too_few_to_judge(
    held_out: Sequence[Sample], config: RedeployConfig, reporter: Reporter
) -> str | None:
    """Why the gate would refuse any challenger, if it would: known without training one."""
    champion = champion_record(store.production_version())
    judging, needed = unknown_to(champion, held_out, reporter), config.gate.min_held_out or 1
    reporter.say(f"{len(judging)} of {len(held_out)} held-out images can judge")
    if len(judging) >= needed:
        return None
    known = len(held_out) - len(judging)
    without = f"the champion was trained on {known} of the {len(held_out)} held-out images, so "
    return (
        f"{without if known else ''}{len(judging)} can judge, {needed} are needed "
        "(gate.min_held_out); add images that it hasn't seen, or raise test_fraction"
    )


def judge_challenger(
    job: JobState, run: Run, bundle: Bundle, config: RedeployConfig, reporter: Reporter
) -> dict[str, Any]:
    """Compare with the champion on what neither was trained on, and apply the gate's rules.

    Raises:
        RedeployError: see `held_out_samples`.
    """
    champion = open_champion(job.champion)
    held_out = held_out_samples(run, champion, reporter)
    comparison = compare(champion, bundle, held_out, reporter)
    lost = sorted(set(champion.spec.labels) - set(bundle.spec.labels)) if champion else []
    verdicts = judge(
        comparison,
        config.gate,
        parity_difference=bundle.metrics()["onnx_parity"]["max_probability_difference"],
        lost_classes=lost,
    )
    for verdict in verdicts:
        mark = "ok     " if verdict.passed else "REFUSED"
        reporter.say(f"  {mark} {verdict.rule}: {verdict.measured} (limit: {verdict.limit})")
    return {
        "comparison": comparison.as_json(),
        "verdicts": [verdict.as_json() for verdict in verdicts],
        "refused": reason(verdicts),
        "disagreements": disagreements(comparison, held_out),
    }


def held_out_samples(run: Run, champion: Bundle | None, reporter: Reporter) -> list[Sample]:
    """The images that judge: the run's test split, without what the champion has trained on.

    Raises:
        RedeployError: none is left.
    """
    data = run.read_json(run.data)
    samples = [
        Sample(run.path.parent / file["path"], file["label"], "test", file["sha256"])
        for file in data["files"]
        if file["split"] == "test"
    ]
    unseen = unknown_to(champion, samples, reporter)
    if not unseen:
        raise RedeployError(
            f"the champion was trained on all of the {len(samples)} held-out images; add images "
            "that it hasn't seen"
        )
    if len(unseen) < len(samples):
        reporter.say(
            f"{len(samples) - len(unseen)} of {len(samples)} held-out images are not used: the "
            "champion was trained on them"
        )
    return unseen


def unknown_to(
    champion: Bundle | None, samples: Sequence[Sample], reporter: Reporter
) -> list[Sample]:
    """The images that the champion, if there is one, was neither trained nor chosen by."""
    if champion is None:
        return list(samples)
    seen = champion.seen()
    if seen is None:
        reporter.warn(
            "the champion's bundle doesn't tell which images it was trained on; some of the "
            "held-out ones may be among them, which would be to its advantage"
        )
        return list(samples)
    return [sample for sample in samples if not seen.trained(sample.sha256)]

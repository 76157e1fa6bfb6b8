"""The report of a redeploy job: champion against challenger on one page, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.files import json_text
from training.data.checks import Sample
from training.redeploy.compare import Comparison
from training.redeploy.gate import probability
from training.redeploy.job_state import JobState
from training.reports.html_page import PAGE_STYLE, picture_of, table, text, tile

_MOST_PICTURES = 48
_VERDICT_STYLE = """
.passed { color: #1a7f37 } .failed { color: #cf222e; font-weight: 600 }
.message { border-left: 4px solid #d8dee4; padding: .4rem 1rem; margin: 1rem 0 }
"""


def disagreements(comparison: Comparison, held_out: Sequence[Sample]) -> list[dict[str, Any]]:
    """The images for which the two have different labels, the champion's losses first."""
    old, new = comparison.champion, comparison.challenger
    if old is None:
        return []
    rows = [
        {
            "path": str(sample.path),
            "label": sample.label,
            "champion": old.answer(i),
            "champion_confidence": float(old.confidence[i]),
            "challenger": new.answer(i),
            "challenger_confidence": float(new.confidence[i]),
        }
        for i, sample in enumerate(held_out)
        if old.answer(i) != new.answer(i)
    ]
    return sorted(rows, key=lambda row: (row["champion"] != row["label"], row["path"]))


def write_redeploy_report(job: JobState, outcome: str, message: str) -> Path:
    """Write `report.html` and `report.json` into the job's directory; returns the former's path."""
    content = job.content | {"outcome": outcome, "message": message}
    (job.path / "report.json").write_text(json_text(content), encoding="utf-8")
    report = job.path / "report.html"
    report.write_text(_page(content), encoding="utf-8")
    return report


def _page(content: dict[str, Any]) -> str:
    gate = content["steps"]["gate"]["result"]
    comparison = gate["comparison"]
    champion = content["champion"] or "none"
    version = content["steps"]["register"]["result"]["version"]
    title = f"Redeploy job {text(content['id'])}: {text(content['outcome'])}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{PAGE_STYLE}{_VERDICT_STYLE}</style></head>
<body>
<h1>{title}</h1>
<p class="sub">champion {text(champion)}, challenger {text(version)};
{comparison["images"]} held-out images that neither was trained on</p>
<p class="message">{text(content["message"])}</p>
<div class="tiles">{_tiles(comparison)}</div>
<h2>Gate</h2>{_verdicts(gate["verdicts"])}
<h2>Each class</h2>{_classes(comparison)}
<h2>Images on which they disagree</h2>{_pictures(gate["disagreements"])}
<h2>Images</h2>{_images(content["collected"])}
<h2>Steps</h2>{_steps(content["steps"])}
</body></html>
"""


def _tiles(comparison: dict[str, Any]) -> str:
    old, new = comparison["champion"], comparison["challenger"]
    tiles = [tile("accuracy of the challenger", f"{new['accuracy']:.1%}")]
    if old is not None:
        low, high = comparison["interval_95"]
        tiles += [
            tile("accuracy of the champion", f"{old['accuracy']:.1%}"),
            tile(f"difference (95%: {low:+.1%} to {high:+.1%})",
                 f"{comparison['accuracy_difference']:+.1%}"),
            tile("McNemar's exact test", probability(comparison["mcnemar_p"])),
        ]  # fmt: skip
    tiles.append(tile("calibration error of the challenger", f"{new['calibration_error']:.3f}"))
    tiles += [
        tile(f"ms an image, {name}", f"{value:.1f}")
        for name, value in comparison["latency_ms"].items()
    ]
    return "".join(tiles)


def _verdicts(verdicts: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{text(verdict['rule'])}</td><td>{text(verdict['measured'])}</td>"
        f"<td>{text(verdict['limit'])}</td>"
        + (
            "<td class='passed'>holds</td>"
            if verdict["passed"]
            else "<td class='failed'>fails</td>"
        )
        + "</tr>"
        for verdict in verdicts
    )
    head = "<tr><th>rule</th><th>measured</th><th>limit</th><th>verdict</th></tr>"
    return f"<table>{head}{rows}</table>"


def _classes(comparison: dict[str, Any]) -> str:
    old, new = comparison["champion"], comparison["challenger"]
    rows = []
    for label, images in comparison["support"].items():
        recall = new["recall"][label]
        before = "" if old is None else f"{old['recall'][label]:.3f}"
        change = "" if old is None else f"{recall - old['recall'][label]:+.3f}"
        rows.append((label, str(images), before, f"{recall:.3f}", change))
    head = ("class", "images", "recall of the champion", "of the challenger", "change")
    return table(head, rows)


def _pictures(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    figures = "".join(_picture(row) for row in rows[:_MOST_PICTURES])
    more = len(rows) - _MOST_PICTURES
    note = f"<p class='sub'>and {more} more, in report.json</p>" if more > 0 else ""
    return f"<div class='mistakes'>{figures}</div>{note}"


def _picture(row: dict[str, Any]) -> str:
    def answer(who: str) -> str:
        kind = "was" if row[who] == row["label"] else "said"
        said = f"{text(row[who])} {row[f'{who}_confidence']:.0%}"
        return f"{who}: <span class='{kind}'>{said}</span>"

    path = Path(row["path"])
    return (
        f"<figure><img alt='' src='{picture_of(path)}'><figcaption>{text(row['label'])}<br>"
        f"{answer('champion')}<br>{answer('challenger')}<br>"
        f"{text(path.name)}</figcaption></figure>"
    )


def _images(ingested: dict[str, Any]) -> str:
    counts = ingested["counts"]
    splits = ("train", "val", "test")
    rows = [(label, *(str(counts[s][label]) for s in splits)) for label in counts["train"]]
    rows.append(("all", *(str(sum(counts[split].values())) for split in splits)))
    note = (
        f"<p class='sub'>{ingested['skipped']} files were unreadable, {ingested['relabelled']} "
        f"labels were corrected by a later source, {ingested['left_out']} near copies across "
        "splits were left out.</p>"
    )
    return table(("class", *splits), rows) + note


def _steps(steps: dict[str, Any]) -> str:
    return table(("step", "seconds"), [(n, f"{s['seconds']:.1f}") for n, s in steps.items()])

"""What was measured of a model's graphs: a table, and which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.bundle.cascade import SecondPrecision
from models.bundle.variants import CpuEngine
from models.export.onnx_variants import Agreement, Speed

# On fewer held-out images than this share another label may come out.
MIN_TOP1_AGREEMENT = 0.995
# On at least this share both answers must be accepted or neither. Near the limit of confidence any
# rounding changes that, and other validation images would have given another limit: int8 does it to
# 2% in the hard case of docs/benchmarks.md. More means that features or distances are wrong.
MIN_SAME_TRUST = 0.95
# Speeds within this factor of the best count as equal, and the smaller one wins.
_SAME_SPEED = 1.05


@dataclass(frozen=True)
class Row:
    """What the table says of a graph, on an engine. `again_in`: it has a second run, in which
    precision."""

    name: str
    size_bytes: int
    speed: Speed
    agreement: Agreement
    engine: CpuEngine = "onnxruntime"
    again_in: SecondPrecision | None = None

    @property
    def graph(self) -> tuple[str, SecondPrecision | None]:
        """What is left out as a whole if it fails on an engine."""
        return self.name, self.again_in

    @property
    def title(self) -> str:
        title = title_of(self.name, self.engine)
        return title if self.again_in is None else f"{title}, again in {self.again_in}"


def recommend(rows: Sequence[Row]) -> tuple[Row, str]:
    """The fastest graph by the mean of its times at batch 1 and 8, of equal ones the smallest, and
    of these the first; and why."""
    left_out = {row.graph for row in rows if not agrees(row.agreement)} - {("float32", None)}
    usable = [row for row in rows if agrees(row.agreement) and row.graph not in left_out]
    fastest = min(seconds(row.speed) for row in usable)
    equal = [row for row in usable if seconds(row.speed) <= _SAME_SPEED * fastest]
    best = min(equal, key=lambda row: row.size_bytes)
    float32 = next(row for row in rows if row.name == "float32")
    why = (
        f"{best.title} takes {seconds(best.speed) / seconds(float32.speed):.2f} of float32's "
        "time and "
        f"{best.size_bytes / float32.size_bytes:.2f} of its size on this machine, and agrees on "
        f"{best.agreement.top1:.1%} of the labels"
    )
    return best, why


def table(rows: Sequence[Row]) -> list[str]:
    """The measurements as lines of equal columns."""
    wide = max(len("variant"), *(len(row.title) for row in rows))
    columns = (
        "size MB  load s  batch 1 ms  batch 8 ms/image  same top-1  same trust  largest change"
    )
    lines = [f"{'variant':{wide}}  {columns}"]
    lines += [
        f"{row.title:{wide}} {row.size_bytes / 1e6:8.0f} {row.speed.load_s:7.2f} "
        f"{row.speed.batch1_s * 1e3:11.0f} {row.speed.batch8_s * 1e3:17.0f} "
        f"{row.agreement.top1:11.1%} {_percent(row.agreement.accepted):>11} "
        f"{row.agreement.max_probability_difference:15.1e}"
        for row in rows
    ]
    return lines


def agrees(found: Agreement) -> bool:
    return not objection(found)


def objection(found: Agreement) -> str:
    """What a variant does that it is refused for, or ""."""
    if not found.top1 >= MIN_TOP1_AGREEMENT:
        return f"keeps {found.top1:.1%} of the labels, the limit is {MIN_TOP1_AGREEMENT:.1%}"
    if found.accepted is not None and not found.accepted >= MIN_SAME_TRUST:
        return (
            f"trusts an answer as float32 does for {found.accepted:.1%} of the images, the limit "
            f"is {MIN_SAME_TRUST:.1%}"
        )
    return ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def title_of(name: str, engine: CpuEngine) -> str:
    """An engine is named where there are two for a graph."""
    return f"{name} on OpenVINO" if engine == "openvino" and name != "bf16" else name


def seconds(speed: Speed) -> float:
    """By which graphs are compared: the mean of the times of an image at batch 1 and 8."""
    return (speed.batch1_s + speed.batch8_s) / 2

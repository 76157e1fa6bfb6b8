"""Whether int8 keeps its labels if images that it can't tell run again, `models.bundle.cascade`:
the margin, found on held-out images that nothing is judged on, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.cascade import Cascade, SecondPrecision, shifts, unsure
from models.bundle.spec import ModelSpec
from models.bundle.variants import CpuEngine
from models.export.onnx_variants import Agreement, Form, Speed, probabilities
from training.export.judged import Judged, compare, worst
from training.export.measured import objection, seconds

# Of so many images, the next one moves further than all with a probability of 1 in 200, 0.5%; of m
# times as many, further than all but m - 1. Only then can its label change unseen. (Among
# exchangeable values each rank is equally likely: Vovk, Gammerman, Shafer, "Algorithmic Learning in
# a Random World", 2005; split conformal prediction, arXiv 2107.07511.)
_ENOUGH_IMAGES = 199
# Of fewer, the largest move is too small a limit, and so many times it is taken. No bound is behind
# it, but a measurement: in the hard case of docs/benchmarks.md, of 4,000 draws of 20 images 22%
# left more than 0.5% of the others' labels changed, of 50 images 2.2%, of 100 images 0.03%.
_FACTOR_OF_FEW = 2
_FEWEST_IMAGES = 50


@dataclass(frozen=True)
class Runner:
    """A graph on an engine, how fast it is, and what it said of the images that variants are judged
    on."""

    form: Form
    speed: Speed
    answers: Judged


@dataclass(frozen=True)
class HeldOut:
    """`finding`: uint8[M,S,S,3], to find a margin on. `places`: of the images to judge it on, among
    those that runners have answered."""

    finding: NDArray[np.uint8]
    places: NDArray[np.intp]

    @classmethod
    def of(cls, others: NDArray[np.uint8], judged: NDArray[np.uint8]) -> HeldOut:
        """Where there are too few others, every second one of `judged` joins them."""
        if len(others) >= _FEWEST_IMAGES:
            return cls(others, np.arange(len(judged)))
        joined = np.concatenate([others, judged[1::2]]) if len(others) else judged[1::2]
        return cls(joined, np.arange(0, len(judged), 2))


@dataclass(frozen=True)
class Trial:
    """What came of it. agreements, speeds: of int8 with its second run, by the engine of int8.
    refusal: why it isn't to be used, or ""."""

    cascade: Cascade
    judged: int
    agreements: dict[CpuEngine, Agreement]
    speeds: dict[CpuEngine, Speed]
    refusal: str

    def report(self) -> str:
        """What a person should know of it."""
        found = self.cascade
        few = (
            ""
            if found.images >= _ENOUGH_IMAGES
            else (
                f", with fewer than {_ENOUGH_IMAGES} {_FACTOR_OF_FEW} times the largest change seen"
            )
        )
        return (
            f"int8 runs images again in {found.second} whose two best probabilities lie within "
            f"{found.margin:.3f} (found on {found.images} other held-out images{few}): "
            f"{found.share:.1%} of them, {found.cost:.2f} of float32's time"
        )


def try_cascade(
    firsts: Mapping[CpuEngine, Runner],
    second: Runner,
    precision: SecondPrecision,
    float32: Runner,
    held_out: HeldOut,
    spec: ModelSpec,
    begin: Callable[[str], None],
) -> Trial | str:
    """Find a margin for int8, and judge it with its second run.

    Args:
        firsts: int8 by engine: one margin for all. second: of `precision`. float32: whose labels
            are to be kept, on ONNX Runtime.
        begin: told what begins.

    Returns:
        why there is none, where there are too few images.
    """
    finding, places = held_out.finding, held_out.places
    if len(finding) < _FEWEST_IMAGES:
        return (
            f"a margin needs {_FEWEST_IMAGES} held-out images beside those that it is judged on; "
            f"there are {len(finding)}"
        )
    begin(f"float32 on {len(finding)} other images")
    expected = probabilities(float32.form, spec, finding)
    found: dict[CpuEngine, NDArray[np.float32]] = {}
    for engine, first in firsts.items():
        begin(f"int8 on {len(finding)} other images")
        found[engine] = probabilities(first.form, spec, finding)
    margin = find_margin(np.stack([shifts(expected, answers) for answers in found.values()]))
    agreements, shares = {}, []
    for engine, first in firsts.items():
        answers, again = first.answers.at(places), second.answers.at(places)
        rows = unsure(answers.probabilities, margin)
        merged = answers.merged(again.at(rows), rows)
        agreements[engine] = compare(float32.answers.at(places), merged)
        shares.append(float(np.concatenate([rows, unsure(found[engine], margin)]).mean()))
    share = max(shares)
    speeds = {
        engine: _with_second(one.speed, second.speed, share) for engine, one in firsts.items()
    }
    cost = max(map(seconds, speeds.values())) / seconds(float32.speed)
    cascade = Cascade(margin=margin, second=precision, images=len(finding), share=share, cost=cost)
    refusal = _refusal(cascade, agreements, firsts, second.speed)
    return Trial(cascade, len(places), agreements, speeds, refusal)


def find_margin(moved: NDArray[np.float32]) -> float:
    """What 0.5% of images move beyond at most, by the moves of M images on E engines, float32[E,M]
    (`shifts`). Where M is too small to tell, twice the largest, 1 at most.

    By all images' moves, not by those whose labels have changed: these are too few to tell."""
    largest_first = np.sort(moved.max(axis=0))[::-1]
    rank = (len(largest_first) + 1) // (_ENOUGH_IMAGES + 1)
    if rank == 0:
        return min(1.0, _FACTOR_OF_FEW * float(largest_first[0]))
    return float(largest_first[rank - 1])


def _with_second(first: Speed, second: Speed, share: float) -> Speed:
    """Of an image. What is left of a batch of 8 is an image or two, so it takes what single ones
    do."""
    again_s = share * second.batch1_s
    return Speed(first.load_s + second.load_s, first.batch1_s + again_s, first.batch8_s + again_s)


def _refusal(
    cascade: Cascade,
    agreements: Mapping[CpuEngine, Agreement],
    firsts: Mapping[CpuEngine, Runner],
    second: Speed,
) -> str:
    if reason := objection(worst(list(agreements.values()))):
        return f"with {cascade.share:.1%} of the images run again in {cascade.second} it {reason}"
    slowest = max(seconds(first.speed) for first in firsts.values())
    most = max(0.0, (seconds(second) - slowest) / second.batch1_s)
    if cascade.share >= most:
        return (
            f"{cascade.share:.1%} of the images would run again in {cascade.second}, which alone "
            f"is as fast from {most:.1%} on"
        )
    return ""

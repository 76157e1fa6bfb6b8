"""Which strategy is right for a data set, and whether `vgg19 probe` and `--strategy auto` know.

    python -m benchmarks.training.strategies --weights FILE|none [--data digits stamps emoji icons]
        [--strategies head fc gradual full auto] [--head-init auto] [--seeds 0 1] [--root /]
    python -m benchmarks.training.strategies --table

Every run is `vgg19 train` with the defaults but for what stands in `COMMON`, from an empty cache of
features; its seconds are those of the processor, of the whole run, the report included. Accuracy is
of `best` on test images, its interval Wilson's for those of all seeds together. Rows are added to
build/benchmarks/strategies.jsonl; what stands there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.report import OUTPUT
from benchmarks.training.data_sets import DATA_SETS, write
from training.auto.train import train
from training.loop.config_file import load_config
from training.loop.run import Run
from training.reporter import SilentReporter

# 32 pixels, and steps of the size that the examples of docs/training.md take. No augmentation, as
# digits and signs bear none.
COMMON = {
    "image_size": 32, "resize": "squash", "augment": "none", "epochs": 5, "batch_size": 16,
    "learning_rate": 1e-3, "save_every_seconds": 1e6,
}  # fmt: skip
ROWS = OUTPUT / "strategies.jsonl"


@dataclass(frozen=True)
class Case:
    """One run. `weights`: `none`, or the name of the file."""

    data: str
    seed: int
    weights: str
    strategy: str
    head_init: str


def cases(options: argparse.Namespace) -> Iterator[Case]:
    weights = Path(options.weights).name
    for seed in options.seeds:
        for data in options.data:
            for strategy in options.strategies:
                for head_init in options.head_init:
                    yield Case(data, seed, weights, strategy, head_init)


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and what came of it."""
    data = write(case.data, options.sets, root=options.root, seed=case.seed)
    with tempfile.TemporaryDirectory(prefix="vgg19-strategies-") as folder:
        config = load_config(
            None,
            COMMON
            | {
                "data": data, "output": f"{folder}/run", "cache_dir": f"{folder}/cache",
                "weights": options.weights, "strategy": case.strategy,
                "head_init": case.head_init, "seed": case.seed,
            },
        )  # fmt: skip
        started = time.process_time()
        run = train(config, SilentReporter())
        return {"seconds": time.process_time() - started} | _figures(run)


def _figures(run: Run) -> dict[str, Any]:
    metrics = run.read_json(run.metrics)
    history, best = metrics["history"], metrics["best_epoch"]
    chosen = next(row for row in history if row["epoch"] == best)
    return {
        "accuracy": metrics["held_out"]["accuracy"],
        "images": metrics["held_out"]["images"],
        "val_accuracy": chosen["val_accuracy"],
        "val_loss": chosen["val_loss"],
        "best_epoch": best,
        "auto": metrics.get("auto"),
    }


def rows() -> list[dict[str, Any]]:
    """What was measured before."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return [json.loads(line) for line in lines]


def table(measured: list[dict[str, Any]]) -> Iterator[str]:
    """As Markdown: a line for each data set, strategy and start of the head."""
    yield "| data | weights | strategy | head | seeds | right (95%) | CPU seconds | kept |"
    yield "|---|---|---|---|--:|--:|--:|---|"
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in measured:
        groups[row["data"], row["weights"], row["strategy"], row["head_init"]].append(row)
    for names, group in sorted(groups.items()):
        images = sum(row["images"] for row in group)
        right = round(sum(row["accuracy"] * row["images"] for row in group))
        interval = stats.binomtest(right, images).proportion_ci(method="wilson")
        seconds = statistics.mean(row["seconds"] for row in group)
        yield (
            f"| {' | '.join(names)} | {len(group)} | {right / images:.1%} "
            f"({interval.low:.1%} to {interval.high:.1%}) | {seconds:.0f} | "
            f"{'; '.join(filter(None, map(_kept, group)))} |"
        )


def _kept(row: dict[str, Any]) -> str:
    """What auto tried, and in brackets what became the run."""
    auto = row["auto"]
    if auto is None:
        return ""
    names = [stage["name"] for stage in auto["stages"]]
    names[auto["chosen"]] = f"[{names[auto['chosen']]}]"
    return " > ".join(names)


def main() -> None:
    options = _options()
    if options.table:
        print("\n".join(table(rows())))
        return
    done = [{name: row[name] for name in Case.__annotations__} for row in rows()]
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    for case in cases(options):
        if asdict(case) in done:
            continue
        row = asdict(case) | measure(case, options)
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{case}: {row['accuracy']:.1%} in {row['seconds']:.0f} s", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--data", nargs="+", choices=sorted(DATA_SETS), default=list(DATA_SETS))
    strategies = ["head", "fc", "gradual", "full"]
    parser.add_argument("--strategies", nargs="+", default=strategies)
    parser.add_argument("--head-init", nargs="+", default=["auto"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--root", type=Path, default=Path("/"))
    parser.add_argument("--sets", type=Path, default=Path("build/data-sets"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

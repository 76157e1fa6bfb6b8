"""The variants of a run's exported model: made, judged on held-out images, measured, chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.bundle.bundle import MODEL_FILE, graph_bytes, graph_files
from models.bundle.golden import PARITY_TOLERANCE, TENSOR_CORE_TOLERANCE, GoldenSamples
from models.bundle.ncnn_graph import ncnn_is_installed
from models.bundle.openvino_graph import computes_in_bf16, openvino_is_installed
from models.bundle.spec import ModelSpec
from models.bundle.variants import (
    VARIANT_NAMES,
    VARIANTS_FILE,
    CpuEngine,
    Variant,
    VariantName,
    Variants,
    variant_files,
)
from models.errors import UserError
from models.export.onnx_export import ExportError
from models.export.onnx_variants import (
    Agreement,
    Form,
    agreement,
    make_variant,
    measure_speed,
    probabilities,
)
from models.machine import processor_kind, sums_int8_exactly
from training.data.dataset import ImageDataset
from training.data.image_data import ImageData
from training.data.sources import Split
from training.evaluate.evaluation import check_unchanged
from training.export.measured import MIN_TOP1_AGREEMENT, Row, agrees, recommend, table, title_of
from training.loop.config_file import read_config
from training.loop.context import load_data
from training.loop.run import Run
from training.reporter import Reporter, steps

# Images that a variant is judged on, and training images that int8 and fp16 are fitted to: enough
# to tell 99.5% from 98%, and some minutes at most.
_JUDGED_IMAGES = 200
_CALIBRATION_IMAGES = 32
# Golden samples were made on one processor, others round differently.
_TOLERANCE_FACTOR = 2
# What `auto` tries: fp16 is for GPUs, which it can't measure; fc4 is smaller than fc8, not faster.
_CPU_VARIANTS: tuple[VariantName, ...] = ("fc8", "int8")
_FLOAT32: tuple[str, CpuEngine] = ("float32", "onnxruntime")


@dataclass(frozen=True)
class Images:
    """uint8[N,S,S,3] each: what variants are fitted to (training), and judged on (held out)."""

    training: NDArray[np.uint8]
    held_out: NDArray[np.uint8]


def read_images(run: Run, spec: ModelSpec, reporter: Reporter) -> Images:
    """From the run's own data.

    Raises:
        RunError: the data has changed since.
        DataError: it can't be read.
    """
    data = load_data(read_config(run.config), reporter)
    check_unchanged(run, data.fingerprint())
    return Images(
        training=_spread(data, "train", spec, _CALIBRATION_IMAGES),
        held_out=_spread(data, data.held_out, spec, _JUDGED_IMAGES),
    )


class VariantJob:
    """Makes the variants that `vgg19 export` was asked for; `rows` are what came of it.

    Args:
        choose: recommend the best on this machine, and leave those out that don't agree instead of
            failing.
    """

    def __init__(
        self, run: Run, names: Sequence[VariantName], reporter: Reporter, *, choose: bool
    ) -> None:
        self._run = run
        self._names = names
        self._reporter = reporter
        self._choose = choose
        self.rows: list[Row] = []
        self._why = ""

    @classmethod
    def of(cls, run: Run, wanted: Sequence[str], reporter: Reporter) -> VariantJob:
        """By what the command line says: names of variants, and `auto`.

        Raises:
            UserError: an unknown name; or int8, on a processor that doesn't sum it exactly.
        """
        unknown = sorted(set(wanted) - {*VARIANT_NAMES, "auto"})
        if unknown:
            raise UserError(
                f"there is no variant '{unknown[0]}'; there are {', '.join(VARIANT_NAMES)} and auto"
            )
        choose = "auto" in wanted
        if "int8" in wanted and not sums_int8_exactly():
            raise UserError(
                "variant int8 can't be judged here: this processor has no VNNI, without which its "
                "sums overflow; export it on one that has, or without it"
            )
        names = {*wanted, *(_CPU_VARIANTS if choose else ())}
        if not sums_int8_exactly():
            names.discard("int8")
        if choose and ncnn_is_installed():
            names.add("ncnn")
        if choose and computes_in_bf16():
            names.add("bf16")
        return cls(run, [name for name in VARIANT_NAMES if name in names], reporter, choose=choose)

    def __call__(self, bundle: Path, spec: ModelSpec, golden: GoldenSamples) -> None:
        """Write the variants and `variants.json` into a bundle that is being made.

        Raises:
            ExportError: a variant answers too differently.
            RunError, DataError: see `read_images`.
        """
        images = read_images(self._run, spec, self._reporter)
        forms = self._forms(bundle)
        with steps(self._reporter, "variants", len(self._names) + len(forms) + 1) as begin:
            for name in self._names:
                begin(f"making {name}")
                target = bundle / graph_files(name)[0]
                make_variant(name, bundle / MODEL_FILE, target, spec, images.training)
            agreements, tolerances = self._judge(forms, spec, images.held_out, golden, begin)
            begin("measuring how fast they are")
            speeds = measure_speed({title_of(*key): form for key, form in forms.items()}, spec)
        self.rows = [
            Row(
                name,
                _size(form.path),
                speeds[title_of(name, engine)],
                agreements[name, engine],
                engine,
            )
            for (name, engine), form in forms.items()
        ]
        self._record(bundle, tolerances, len(images.held_out))

    def _judge(
        self,
        forms: dict[tuple[str, CpuEngine], Form],
        spec: ModelSpec,
        held_out: NDArray[np.uint8],
        golden: GoldenSamples,
        begin: Callable[[str], None],
    ) -> tuple[dict[tuple[str, CpuEngine], Agreement], dict[str, float]]:
        """How far each form agrees with float32 on the held-out images, and by graph the largest
        difference that its golden samples may show."""
        count = len(held_out)
        judged = np.concatenate([held_out, golden.images])
        agreements = {_FLOAT32: Agreement(1.0, 0.0)}
        tolerances: dict[str, float] = {}
        begin(f"float32 on {count} images")
        expected = probabilities(forms[_FLOAT32], spec, held_out)
        for graph, engine in list(forms)[1:]:
            title = title_of(graph, engine)
            begin(f"{title} on {count} images")
            answers = probabilities(forms[graph, engine], spec, judged)
            found = agreements[graph, engine] = agreement(expected, answers[:count])
            if not self._choose:
                _check(title, found, count)
            tolerance = _tolerance(graph, golden, answers[count:])
            tolerances[graph] = max(tolerances.get(graph, 0.0), tolerance)
        return agreements, tolerances

    def _record(self, bundle: Path, tolerances: dict[str, float], images: int) -> None:
        """Write `variants.json`, and remove the files of variants that don't agree."""
        best, self._why = recommend(self.rows) if self._choose else (None, "")
        variants = []
        for name in self._names:
            rows = (row.agreement for row in self.rows if row.name == name)
            found = min(rows, key=lambda one: one.top1)  # on whichever engine it is to run
            files = variant_files(name)
            if not agrees(found):
                for file in files:
                    (bundle / file).unlink()
                continue
            variants.append(
                Variant(
                    name=name,
                    size_bytes=_size(bundle / files[0]) if files else 0,
                    images=images,
                    top1_agreement=found.top1,
                    max_probability_difference=found.max_probability_difference,
                    tolerance=tolerances[name],
                    needs_vnni=name == "int8",
                )
            )
        recommended = next((one for one in VARIANT_NAMES if best and one == best.name), None)
        engine = best.engine if best else "onnxruntime"
        record = Variants(
            variants=variants,
            recommended=recommended,
            engine=engine,
            why=self._why,
            processor=processor_kind() if self._choose else "",
        )
        record.write(bundle / VARIANTS_FILE)

    def _forms(self, bundle: Path) -> dict[tuple[str, CpuEngine], Form]:
        """What is judged and measured: float32 first, each variant on its own engine, int8 on all
        that may run it, and float32 on OpenVINO where the best is looked for."""
        forms: dict[tuple[str, CpuEngine], Form] = {_FLOAT32: Form(bundle / MODEL_FILE)}
        for name in self._names:
            form = Form.of(name, bundle)
            forms[name, form.engine] = form
        if openvino_is_installed():
            for graph in ("float32", "int8") if self._choose else ("int8",):
                if (graph, "onnxruntime") in forms:
                    forms[graph, "openvino"] = Form(forms[graph, "onnxruntime"].path, "openvino")
        return forms

    def report(self) -> list[str]:
        """What was measured, what was left out, and what is best."""
        left_out = [
            f"{row.title} is left out: it keeps fewer than {MIN_TOP1_AGREEMENT:.1%} of the labels"
            for row in self.rows
            if not agrees(row.agreement)
        ]
        how = " (VGG19_PRECISION=auto takes what is best)"
        return [*table(self.rows), *left_out, *([self._why + how] if self._choose else [])]


def _check(name: str, found: Agreement, count: int) -> None:
    if not agrees(found):
        raise ExportError(
            f"variant {name} gives another label than float32 for {1 - found.top1:.1%} of {count} "
            f"held-out images, the limit is {1 - MIN_TOP1_AGREEMENT:.1%}; export without it"
        )


def _tolerance(name: str, golden: GoldenSamples, answers: NDArray[np.float32]) -> float:
    difference = agreement(golden.probabilities, answers).max_probability_difference
    # Here it ran on a processor, which computes in float32 what is stored in float16; on an H200
    # fp16 was off by 2.1 times as much.
    least = TENSOR_CORE_TOLERANCE if name == "fp16" else PARITY_TOLERANCE
    return max(least, _TOLERANCE_FACTOR * difference)


def _spread(data: ImageData, split: Split, spec: ModelSpec, most: int) -> NDArray[np.uint8]:
    """Up to `most` images, spread over the classes (they lie in their order)."""
    dataset = ImageDataset(data.split(split), spec.labels, spec.preprocessing, None)
    count = min(most, len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]
    return torch.stack([dataset.pixels(index) for index in chosen]).numpy()


def _size(path: Path) -> int:
    """Of a graph with its weights, in bytes."""
    return path.with_suffix(".bin").stat().st_size if path.suffix == ".param" else graph_bytes(path)

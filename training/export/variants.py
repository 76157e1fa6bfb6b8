"""The variants of a run's exported model: made, judged on held-out images, measured, chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    Speed,
    agreement,
    answers,
    make_variant,
    measure_speed,
)
from models.machine import processor_kind, sums_int8_exactly
from training.export.cascade import HeldOut, Runner, Trial, try_cascade
from training.export.images import Images, read_images
from training.export.judged import Judged, Trust, compare, worst
from training.export.measured import Row, agrees, objection, recommend, table, title_of
from training.loop.run import Run
from training.reporter import Reporter, steps

# Golden samples were made on one processor, others round differently.
_TOLERANCE_FACTOR = 2
# What `auto` tries: fp16 is for GPUs, which it can't measure; fc4 is smaller than fc8, not faster.
_CPU_VARIANTS: tuple[VariantName, ...] = ("fc8", "int8")
Key = tuple[str, CpuEngine]
_FLOAT32: Key = ("float32", "onnxruntime")
_BF16: Key = ("bf16", "openvino")
# What is measured besides where int8 needs a second run: float32 as that runs it.
_MAPPED = "float32, mapped"


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
        self._trial: Trial | str = ""
        self._refusal = ""
        self._answers: dict[Key, Judged] = {}
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
            trust = Trust(bundle)
            agreements, tolerances = self._judge(forms, spec, images.held_out, golden, trust, begin)
            begin("measuring how fast they are")
            timed = {title_of(*key): form for key, form in forms.items()}
            needs_margin = any(key[0] == "int8" and not agrees(agreements[key]) for key in forms)
            if needs_margin:
                timed[_MAPPED] = replace(forms[_FLOAT32], saves_memory=True)
            speeds = measure_speed(timed, spec)
            if needs_margin:
                self._trial = self._try(forms, timed, speeds, agreements, spec, images, begin)
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
        self.rows += self._rows_of_trial(forms)
        rest_in_bf16 = ("int8", "openvino") in forms and forms["int8", "openvino"].bf16
        self._record(bundle, tolerances, len(images.held_out), rest_in_bf16=rest_in_bf16)

    def _try(
        self,
        forms: Mapping[Key, Form],
        timed: Mapping[str, Form],
        speeds: Mapping[str, Speed],
        agreements: Mapping[Key, Agreement],
        spec: ModelSpec,
        images: Images,
        begin: Callable[[str], None],
    ) -> Trial | str:
        """int8 with a second run, in bf16 where that agrees.

        Raises:
            ExportError: that isn't to be used either, and int8 was asked for.
        """

        def runner(key: Key, title: str | None = None) -> Runner:
            title = title or title_of(*key)
            return Runner(timed[title], speeds[title], self._answers[key])

        bf16 = _BF16 in forms and agrees(agreements[_BF16])
        trial = try_cascade(
            {key[1]: runner(key) for key in forms if key[0] == "int8"},
            runner(_BF16) if bf16 else runner(_FLOAT32, _MAPPED),
            "bf16" if bf16 else "float32",
            runner(_FLOAT32),
            HeldOut.of(images.others(), images.held_out),
            spec,
            begin,
        )
        self._refusal = trial if isinstance(trial, str) else trial.refusal
        if self._refusal and not self._choose:
            found = worst([agreements[key] for key in forms if key[0] == "int8"])
            raise ExportError(
                f"on {len(images.held_out)} held-out images variant int8 {objection(found)}; and "
                f"{self._refusal}; export without it"
            )
        return trial

    def _rows_of_trial(self, forms: Mapping[Key, Form]) -> list[Row]:
        trial = self._trial
        if isinstance(trial, str) or self._refusal:
            return []
        size = sum(_size(forms[key].path) for key in (("int8", "onnxruntime"), _FLOAT32))
        return [
            Row("int8", size, trial.speeds[engine], found, engine, trial.cascade.second)
            for engine, found in trial.agreements.items()
        ]

    def _judge(
        self,
        forms: dict[Key, Form],
        spec: ModelSpec,
        held_out: NDArray[np.uint8],
        golden: GoldenSamples,
        trust: Trust,
        begin: Callable[[str], None],
    ) -> tuple[dict[Key, Agreement], dict[str, float]]:
        """How far each form agrees with float32 on the held-out images, and by graph the largest
        difference that its golden samples may show."""
        count = len(held_out)
        judged = np.concatenate([held_out, golden.images])
        tolerances: dict[str, float] = {}
        begin(f"float32 on {count} images")
        expected = trust(answers(forms[_FLOAT32], spec, held_out))
        self._answers = {_FLOAT32: expected}
        agreements = {_FLOAT32: Agreement(1.0, 0.0)}
        for graph, engine in list(forms)[1:]:
            title = title_of(graph, engine)
            begin(f"{title} on {count} images")
            said = trust(answers(forms[graph, engine], spec, judged))
            self._answers[graph, engine] = said.at(slice(count))
            found = agreements[graph, engine] = compare(expected, said.at(slice(count)))
            if not self._choose and graph != "int8":  # which may have a second run
                _check(title, found, count)
            tolerance = _tolerance(graph, golden, said.probabilities[count:])
            tolerances[graph] = max(tolerances.get(graph, 0.0), tolerance)
        return agreements, tolerances

    def _record(
        self, bundle: Path, tolerances: dict[str, float], images: int, *, rest_in_bf16: bool
    ) -> None:
        """Write `variants.json`, and remove the files of variants that don't agree."""
        best, self._why = recommend(self.rows) if self._choose else (None, "")
        variants = []
        for name in self._names:
            rows = [row for row in self.rows if row.name == name]
            again = [row for row in rows if row.again_in is not None]
            # On whichever engine it is to run.
            found = worst([row.agreement for row in again or rows])
            files = variant_files(name)
            if not agrees(found):
                for file in files:
                    (bundle / file).unlink()
                continue
            trial = self._trial if again and isinstance(self._trial, Trial) else None
            variants.append(
                Variant(
                    name=name,
                    size_bytes=_size(bundle / files[0]) if files else 0,
                    images=trial.judged if trial else images,
                    top1_agreement=found.top1,
                    max_probability_difference=found.max_probability_difference,
                    same_trust=found.accepted,
                    max_distance_difference=found.max_distance_difference,
                    tolerance=tolerances[name],
                    needs_vnni=name == "int8",
                    rest_in_bf16=name == "int8" and rest_in_bf16,
                    cascade=trial.cascade if trial else None,
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

    def _forms(self, bundle: Path) -> dict[Key, Form]:
        """What is judged and measured: float32 first, each variant on its own engine, int8 on all
        that may run it, and float32 on OpenVINO where the best is looked for."""
        forms: dict[Key, Form] = {_FLOAT32: Form(bundle / MODEL_FILE)}
        for name in self._names:
            form = Form.of(name, bundle)
            forms[name, form.engine] = form
        if openvino_is_installed():
            for graph in ("float32", "int8") if self._choose else ("int8",):
                if (graph, "onnxruntime") in forms:
                    # What int8 leaves in float, in bfloat16: ONNX Runtime computes it in float32,
                    # so int8 is judged with both.
                    bf16 = graph == "int8" and computes_in_bf16()
                    path = forms[graph, "onnxruntime"].path
                    forms[graph, "openvino"] = Form(path, "openvino", bf16=bf16)
        return forms

    def report(self) -> list[str]:
        """What was measured, what was left out, and what is best."""
        left_out = [
            f"{row.title} is left out: it {objection(row.agreement)}"
            for row in self.rows
            if not agrees(row.agreement)
        ]
        if isinstance(self._trial, Trial):
            left_out.append(self._trial.report())
        if refusal := self._refusal:
            left_out.append(f"int8 with a second run is left out: {refusal}")
        how = " (VGG19_PRECISION=auto takes what is best)"
        return [*table(self.rows), *left_out, *([self._why + how] if self._choose else [])]


def _check(name: str, found: Agreement, count: int) -> None:
    if reason := objection(found):
        raise ExportError(f"on {count} held-out images variant {name} {reason}; export without it")


def _tolerance(name: str, golden: GoldenSamples, answers: NDArray[np.float32]) -> float:
    difference = agreement(golden.probabilities, answers).max_probability_difference
    # Here it ran on a processor, which computes in float32 what is stored in float16; on an H200
    # fp16 was off by 2.1 times as much.
    least = TENSOR_CORE_TOLERANCE if name == "fp16" else PARITY_TOLERANCE
    return max(least, _TOLERANCE_FACTOR * difference)


def _size(path: Path) -> int:
    """Of a graph with its weights, in bytes."""
    return path.with_suffix(".bin").stat().st_size if path.suffix == ".param" else graph_bytes(path)

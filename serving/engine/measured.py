"""Which of a bundle's graphs is the fastest on this processor, where it is of another kind than the
one that `vgg19 export --variant auto` measured on: measured before the first start, and kept.

The right answer differs: OpenVINO in bfloat16 with AVX512_BF16 or AMX, int8 with VNNI, ncnn with
neither (docs/benchmarks.md). A model that comes while the service runs is not measured, since
requests would wait and disturb it: it follows its export's recommendation.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

from models.bundle.bundle import Bundle
from models.bundle.json_file import JsonFile
from models.bundle.manifest import MANIFEST_FILE
from models.bundle.variants import CpuEngine, VariantName, Variants
from models.errors import UserError
from models.files import staged_file
from models.machine import processor_kind
from models.paths import user_cache
from serving.engine.options import SessionOptions

logger = logging.getLogger(__name__)

# Loading and a dozen runs of each of six graphs take half a minute on two cores.
_LIMIT_S = 300.0


class Fastest(JsonFile):
    """What is kept. `variant`: None is float32."""

    variant: VariantName | None
    engine: CpuEngine
    why: str


def variants_as_measured(bundle: Bundle, options: SessionOptions) -> Variants:
    """The bundle's variants; what they recommend is what was measured here, where that is known."""
    variants = bundle.variants()
    found = _read(_place(bundle, options)) if _asks_for(options, variants) else None
    if found is None:
        return variants
    update = {"recommended": found.variant, "engine": found.engine, "why": found.why}
    return variants.model_copy(update=update)


def measure_if_unknown(bundle: Bundle, options: SessionOptions) -> None:
    """Measure in a process of its own, whose memory is free afterwards and whose crash is a
    warning. A failure leaves the export's recommendation."""
    if not _asks_for(options, bundle.variants()):
        return
    place = _place(bundle, options)
    if _read(place) is not None:
        return
    logger.warning(
        "VGG19_PRECISION=auto: this model was measured on another kind of processor (%s, here %s); "
        "measuring which graph is the fastest here, once, which takes up to a minute",
        bundle.variants().processor,
        processor_kind(),
    )
    try:
        found = _measure(bundle, options)
        place.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(place) as staged:
            found.write(staged)
    except (OSError, ValueError, subprocess.SubprocessError, UserError) as error:
        logger.warning(
            "it can't be measured, so its export's recommendation is followed: %s", error
        )
        return
    logger.warning("%s; kept in %s", found.why, place)


def _asks_for(options: SessionOptions, variants: Variants) -> bool:
    """Whether what is the fastest matters, and was measured elsewhere."""
    return (
        options.gpu.precision == "auto"
        and options.on_cpu
        and options.cpu_engine != "ncnn"  # it has one graph
        and variants.processor not in ("", processor_kind())
    )


def _place(bundle: Bundle, options: SessionOptions) -> Path:
    """One file for each bundle, kind of processor, number of threads and engine that is set."""
    manifest = (bundle.path / MANIFEST_FILE).read_bytes()
    here = f"{processor_kind()} {options.intra_op_threads} {options.cpu_engine}"
    key = hashlib.sha256(manifest + b"\0" + here.encode()).hexdigest()[:32]
    return user_cache() / "fastest" / f"{key}.json"


def _read(path: Path) -> Fastest | None:
    try:
        return Fastest.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _measure(bundle: Bundle, options: SessionOptions) -> Fastest:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "serving.engine.fastest", str(bundle.path)),
            *(str(options.intra_op_threads), options.cpu_engine),
        ],
        capture_output=True,
        timeout=_LIMIT_S,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        text=True,
        check=False,
    )
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise UserError(f"exit code {ran.returncode}: {last[0]}")
    printed = ran.stdout.strip().splitlines() or [""]
    return Fastest.model_validate_json(printed[-1])

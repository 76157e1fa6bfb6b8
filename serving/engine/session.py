"""A loaded model: uint8[N,S,S,3] RGB -> float32[N,C] probabilities, and how unlike the training
images each image is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle.acceptance import Acceptance
from models.bundle.bundle import DISTANCE_OUTPUT, FEATURES_OUTPUT, Bundle
from models.bundle.cascade import SecondPrecision
from models.bundle.golden import TENSOR_CORE_TOLERANCE, GoldenSamples
from serving.engine.batch_sizes import default_batch_size
from serving.engine.cascade import CascadeEngine
from serving.engine.choice import Choice, Machine, choose_variant
from serving.engine.graph_check import check_graph
from serving.engine.load import Engine, load_engine
from serving.engine.measured import variants_as_measured
from serving.engine.onnxruntime import inference_session
from serving.engine.options import SessionOptions
from serving.engine.providers import (
    CPU,
    Provider,
    SessionError,
    device_name,
    uses_tensor_cores,
)
from serving.engine.right_of_way import Courtesy, Traffic

# What making a session of VGG-19 takes on its own, on the CPU.
_MAKING_S = 0.1


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a model says of an image.

    probabilities: float32[C], they sum to 1. distance: from the training images, see
    `models.export.distance_graph`; 1 is the limit, None where the model has no distance.
    """

    probabilities: NDArray[np.float32]
    distance: float | None = None

    def best(self) -> int:
        """The column of the most probable label, the first of equal ones.

        NumPy's `argmax` lets go of the GIL. In an event loop beside threads that decode, getting it
        back makes that take 10 microseconds of 10 labels, this 3.
        """
        values: list[float] = self.probabilities.tolist()
        return values.index(max(values))


def is_accepted(acceptance: Acceptance | None, output: ModelOutput) -> bool:
    """Whether to trust what a model says, by what its bundle says of that (None: nothing)."""
    if acceptance is None:
        return True
    return acceptance.accepts(float(output.probabilities.max()), output.distance)


def what_to_run(bundle: Bundle, options: SessionOptions) -> Choice:
    """The variant of a bundle, and the engine, that the options choose on this machine; `auto` by
    what was measured here, if that was needed (`serving.engine.measured`).

    Raises:
        SessionError: the bundle doesn't have it.
    """
    engine = options.cpu_engine if options.on_cpu else None
    return choose_variant(options.gpu, variants_as_measured(bundle, options), engine, Machine())


class Session:
    """A loaded model, its golden samples replayed and its batch sizes warmed.

    `max_batch_size`: the largest batch that `run` takes. `provider`: on what it runs. `last_run`:
    images and seconds of the last `judge` (an event loop's clock may count whole milliseconds).
    `has_features`: whether `features` gives any. `cascade`: of the variant that runs; `second`: the
    precision that images run again in, here.

    Args:
        bundle: whose graphs have been checked, or are (`checked_session`).
        courtesy: to requests, which go before the making and proving of this model on a CPU; None:
            there are none.
        choice: what to run of it; None: what the options choose.
        before_replay: called when it is loaded, before its golden samples run. What it raises is
            raised.

    Raises:
        SessionError: the provider didn't start, or the model doesn't reproduce its golden samples.
        BundleError: the golden samples can't be read, or the graph does what it shouldn't.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: SessionOptions,
        courtesy: Courtesy | None = None,
        choice: Choice | None = None,
        before_replay: Callable[[], object] = lambda: None,
    ) -> None:
        self._spec = bundle.spec
        self.last_run = (0, 0.0)
        self.has_features = False
        choice = choice or what_to_run(bundle, options)
        self.variant = choice.variant
        courtesy = courtesy or Courtesy(Traffic())
        self._distances = _load_distances(bundle)
        most = _largest_batch(bundle, options, options.providers[0][0])
        if options.on_cpu:
            courtesy.wait_for_beginning(_MAKING_S)
        first = load_engine(bundle, choice, options, most)
        self.provider = first.provider
        self.max_batch_size = _largest_batch(bundle, options, self.provider)
        if options.must_run_on is not None and self.provider != options.must_run_on:
            raise SessionError(
                f"VGG19_DEVICE is cuda, but {options.must_run_on} did not start (the reason is in "
                "the log above: driver, CUDA or cuDNN libraries); repair it or set VGG19_DEVICE=cpu"
            )
        before_replay()
        golden = bundle.golden()
        self._replay(first, golden, self._tolerance(choice, golden, options), courtesy)
        self._engine: Engine = first
        self.cascade = None if self.variant is None else self.variant.cascade
        self.second: SecondPrecision | None = None
        if choice.second is not None and self.cascade is not None:
            if options.on_cpu:
                courtesy.wait_for_beginning(_MAKING_S)
            second = load_engine(bundle, choice.second, options, most, saves_memory=True)
            tolerance = self._tolerance(choice.second, golden, options)
            self._replay(second, golden, tolerance, courtesy)
            self.second = "float32" if choice.second.variant is None else "bf16"
            self._engine = CascadeEngine(first, second, self.cascade.margin)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image."""
        size = self._spec.preprocessing.image_size
        return size, size, 3

    @property
    def rerun_images(self) -> int:
        """How many images have run again since it was loaded."""
        return self._engine.rerun_images if isinstance(self._engine, CascadeEngine) else 0

    @property
    def has_distance(self) -> bool:
        """Whether `judge` gives distances."""
        return self._distances is not None

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Run one batch. May be called from several threads at once.

        Args:
            images: 1..`max_batch_size` of uint8[S,S,3], RGB.

        Returns:
            N of float32[C], each summing to 1, in the order of `images`.
        """
        return list(self._engine(images)[0])

    def judge(self, images: Sequence[NDArray[np.uint8]]) -> list[ModelOutput]:
        """As `run`, with distances."""
        started = time.perf_counter()
        probabilities, *features = self._engine(images)
        rows = list(probabilities)
        if self._distances is None or not features:
            outputs = [ModelOutput(row) for row in rows]
        else:
            distances = self._distances(features[0]).tolist()
            outputs = [ModelOutput(*pair) for pair in zip(rows, distances, strict=True)]
        self.last_run = (len(rows), time.perf_counter() - started)
        return outputs

    def features(
        self, images: Sequence[NDArray[np.uint8]], options: ort.RunOptions | None = None
    ) -> NDArray[np.float32]:
        """What the head reads: float32[N,K], of VGG-19 what FC2 gives. Where `has_features`.

        Args:
            images: as of `run`. options: see `Engine`.
        """
        return self._engine(images, options)[1]

    def _tolerance(self, choice: Choice, golden: GoldenSamples, options: SessionOptions) -> float:
        """How far from the golden samples a probability may be on what the model runs on."""
        if choice.variant is not None:
            return choice.variant.tolerance
        if self.provider != CPU and uses_tensor_cores(options.gpu):
            return max(TENSOR_CORE_TOLERANCE, golden.tolerance)
        return golden.tolerance

    def _replay(
        self, engine: Engine, golden: GoldenSamples, tolerance: float, courtesy: Courtesy
    ) -> None:
        for image, expected in zip(golden.images, golden.probabilities, strict=True):
            run = partial(engine, [image])
            # On a GPU it takes milliseconds, and there may be no gap for long.
            on_cpu = device_name(engine.provider) == "cpu"
            probabilities, *features = courtesy.run(run) if on_cpu else run()
            self.has_features = bool(features)
            difference = float(np.abs(probabilities[0] - expected).max())
            if not difference <= tolerance:  # NaN fails, too
                raise SessionError(
                    f"on {engine.provider} the model differs from its golden samples by "
                    f"{difference:.2e} in a probability, the limit is {tolerance:.1e}; it "
                    "is not served, export it again"
                )


def _largest_batch(bundle: Bundle, options: SessionOptions, provider: Provider) -> int:
    return options.max_batch_size or default_batch_size(
        on_gpu=device_name(provider) == "gpu",
        image_size=bundle.spec.preprocessing.image_size,
        threads=options.intra_op_threads,
    )


def checked_session(
    bundle: Bundle, options: SessionOptions, traffic: Traffic | None = None
) -> Session:
    """Load a bundle from `inspect_bundle`. Meanwhile another core compares its weights with the
    manifest, between requests. Golden samples run only when that is done: beside it, on as many
    threads as there are cores, one of them would rarely end before the next request. On a CPU that
    answers requests the session isn't made meanwhile either, but in a gap of its own.

    Args:
        traffic: the requests that go before it; None: there are none.

    Raises:
        BundleError, SessionError: see `Bundle.check_graph`, `Session`. Where the weights differ,
            that is what is said, whatever else came of it.
    """
    choice = what_to_run(bundle, options)
    graphs = [one.variant for one in (choice, choice.second) if one is not None]
    for variant in graphs:
        bundle.check_graph(variant)
    traffic = traffic or Traffic()
    courtesy = Courtesy(traffic)

    def check_weights() -> None:
        for variant in graphs:
            bundle.check_weights(variant, courtesy.wait)

    with ThreadPoolExecutor(1, thread_name_prefix="compare") as thread:
        weights = thread.submit(check_weights)
        try:
            # One thing at a time beside requests; on a GPU's machine there are cores for both.
            if options.on_cpu and traffic.is_busy:
                weights.result()
            return Session(bundle, options, courtesy, choice, weights.result)
        finally:
            weights.result()


def _load_distances(
    bundle: Bundle,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]] | None:
    """float32[N,4096] -> float32[N]; on the CPU, where one thread does it in a fraction of a ms."""
    if bundle.distance_path is None:
        return None
    check_graph(bundle.distance_path)
    on_cpu = SessionOptions([(CPU, {})], None, intra_op_threads=1, max_batch_size=1)
    session = inference_session(bundle.distance_path, on_cpu)

    def distances(features: NDArray[np.float32]) -> NDArray[np.float32]:
        (values,) = session.run([DISTANCE_OUTPUT], {FEATURES_OUTPUT: features})
        return values  # type: ignore[no-any-return]  # untyped

    return distances

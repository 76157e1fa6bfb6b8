"""The served model on the card: every precision as the service runs it, and what each of its
choices is worth."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from benchmarks.gpu.place import Place
from benchmarks.gpu.prepare import photographs
from benchmarks.gpu.timing import median_seconds, memory_mb, traced
from models.bundle.bundle import Bundle, inspect_bundle
from models.bundle.golden import TENSOR_CORE_TOLERANCE
from models.export.onnx_variants import agreement
from serving.engine.options import SessionOptions
from serving.engine.providers import CPU, CUDA, GpuOptions, Precision, cuda_options
from serving.engine.session import Session, checked_session

# As requests come: few, many, and what lies between.
_MIXED = (1, 32, 5, 17, 32, 2, 9)
_EXACT = {"use_tf32": "0", "prefer_nhwc": "0", "fuse_conv_bias": "0"}
_RAW = {
    "use_tf32": "1",
    "prefer_nhwc": "1",
    "fuse_conv_bias": "1",
    "cudnn_conv_algo_search": "HEURISTIC",
}


def run(place: Place) -> None:
    ort.preload_dlls()
    bundle = inspect_bundle(place.bundle)
    precisions: tuple[Precision, ...] = (
        ("float16", "tf32", "float32") if place.on_gpu else ("float32",)
    )
    for precision in precisions:
        as_served(place, bundle, precision)
    if place.on_gpu:
        large_batches(place, bundle)
        change(place, bundle)
    choices(place, bundle)


def as_served(place: Place, bundle: Bundle, precision: Precision) -> None:
    session = load(place, bundle, precision)
    name = f"session {precision}"
    golden = bundle.golden()
    for how, answers in (
        ("one by one", [session.run([image])[0] for image in golden.images]),
        (
            "together",
            session.run(list(golden.images))
            if session.max_batch_size >= len(golden.images)
            else [],
        ),
    ):
        if answers:
            place.add(
                f"{name}, golden samples {how}",
                **vars(agreement(golden.probabilities, np.stack(answers))),
            )
    for batch in (size for size in place.scale.batches if size <= session.max_batch_size):
        images = list(batch_of(place, batch))
        seconds = median_seconds(lambda i=images: session.judge(i), place.scale.seconds)  # type: ignore[misc]
        place.add(name, batch=batch, ms=1e3 * seconds, images_per_s=batch / seconds)
    mixed(place, name, session)
    beside(place, name, session)


def mixed(place: Place, name: str, session: Session) -> None:
    """Batches of changing sizes: what a change costs."""
    images = list(batch_of(place, 32))
    sizes = itertools.cycle(min(size, session.max_batch_size) for size in _MIXED)
    done, worst, started = 0, 0.0, time.perf_counter()
    while time.perf_counter() - started < place.scale.seconds:
        size, before = next(sizes), time.perf_counter()
        session.judge(images[:size])
        worst, done = max(worst, time.perf_counter() - before), done + size
    seconds = time.perf_counter() - started
    place.add(
        f"{name}, batches of {_MIXED} in turn", images_per_s=done / seconds, worst_ms=1e3 * worst
    )


def beside(place: Place, name: str, session: Session, threads: int = 2) -> None:
    """Full batches from two threads, as the service runs them."""
    images = list(batch_of(place, session.max_batch_size))
    done = [0] * threads
    until = time.perf_counter() + 2 * place.scale.seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            session.judge(images)
            done[number] += len(images)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    place.add(
        f"{name}, from {threads} threads", batch=len(images), images_per_s=sum(done) / seconds
    )


def large_batches(place: Place, bundle: Bundle) -> None:
    session = load(place, bundle, "float16", max_batch_size=128)
    for batch in (64, 128):
        images = list(batch_of(place, batch))
        seconds = median_seconds(lambda i=images: session.judge(i), place.scale.seconds)  # type: ignore[misc]
        place.add(
            "session float16, up to 128",
            batch=batch,
            ms=1e3 * seconds,
            images_per_s=batch / seconds,
        )


def change(place: Place, bundle: Bundle) -> None:
    """Load a second session while the first one works: answers, waiting and memory."""
    old = load(place, bundle, "float16")
    asking = _Asking(old, bundle)
    time.sleep(2 * place.scale.seconds)
    before = sorted(asking.times)
    new = load(place, bundle, "float16")
    during = sorted(asking.times[len(before) :])
    asking.stop()
    place.add(
        "change of the model under load",
        wrong=len(asking.wrong), first=asking.wrong[:1], batches=len(during),
        p50_ms_before=1e3 * before[len(before) // 2], p50_ms=1e3 * during[len(during) // 2],
        p99_ms=1e3 * during[int(0.99 * len(during))], worst_ms=1e3 * during[-1], gpu_mb=memory_mb(),
    )  # fmt: skip
    del asking, old
    _settle()
    place.add("after the change, the old one dropped", gpu_mb=memory_mb())
    del new
    _settle()
    place.add("after the change, both dropped", gpu_mb=memory_mb())


class _Asking:
    """Asks a session for its golden samples, over and over, in a thread: `times` in seconds, and
    what was `wrong`."""

    def __init__(self, session: Session, bundle: Bundle) -> None:
        self.times: list[float] = []
        self.wrong: list[str] = []
        self._session, self._golden = session, bundle.golden()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        images, expected = list(self._golden.images), self._golden.probabilities
        while not self._done.is_set():
            started = time.perf_counter()
            try:
                rows = np.stack(self._session.run(images))
                if agreement(expected, rows).max_probability_difference > TENSOR_CORE_TOLERANCE:
                    self.wrong.append("another answer")
            except Exception as error:  # whatever it is, it is what we are here to see
                self.wrong.append(" ".join(str(error).split())[:200])
            self.times.append(time.perf_counter() - started)


def _settle() -> None:
    gc.collect()
    time.sleep(0.5)


def load(place: Place, bundle: Bundle, precision: Precision, max_batch_size: int = 0) -> Session:
    gpu = GpuOptions(precision=precision)
    providers: list[Any] = [(CUDA, cuda_options(gpu)), (CPU, {})] if place.on_gpu else [(CPU, {})]
    options = SessionOptions(providers, CUDA if place.on_gpu else None, 4, max_batch_size, gpu)
    started = time.perf_counter()
    session = checked_session(bundle, options)
    place.add(
        f"session {precision}, loaded", seconds=time.perf_counter() - started, gpu_mb=memory_mb()
    )
    return session


def choices(place: Place, bundle: Bundle) -> None:
    """Options of the provider, on images that lie on the card; not captured."""
    fp16 = bundle.path / "model.fp16.onnx"
    cells: list[tuple[str, Path, dict[str, str]]] = [
        ("float16, as served", fp16, {}),
        ("float16, NCHW", fp16, {"prefer_nhwc": "0"}),
        ("float16, EXHAUSTIVE", fp16, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
        ("float16, bias not fused", fp16, {"fuse_conv_bias": "0"}),
        ("float16, use_tf32 0", fp16, {"use_tf32": "0"}),
        ("float32, as served", bundle.model_path, _EXACT),
        ("float32, NHWC", bundle.model_path, _EXACT | {"prefer_nhwc": "1"}),
        ("float32, EXHAUSTIVE", bundle.model_path,
         _EXACT | {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
        ("tf32, NCHW", bundle.model_path, {"prefer_nhwc": "0"}),
        ("bfloat16", bfloat16(fp16, place.path / "bf16.onnx"), {}),
    ]  # fmt: skip
    for name, path, other in cells if place.on_gpu else cells[:1]:
        try:
            session = open_session(place, path, {**_RAW, **other})
            for batch in (32, 128) if place.on_gpu else (2,):
                seconds = median_seconds(on_device(place, session, batch), place.scale.seconds / 2)
                place.add(
                    f"choice: {name}", batch=batch, ms=1e3 * seconds, images_per_s=batch / seconds
                )
            if name.endswith("16, as served"):
                details(place, session)
        except Exception as error:  # a provider that can't is a finding
            place.add(f"choice: {name}", failed=" ".join(str(error).split())[:300])


def details(place: Place, session: ort.InferenceSession) -> None:
    """Which kernels run, what two batch sizes in turn cost without captured graphs, and what lies
    between pageable memory and the card."""
    large, half = (
        (on_device(place, session, 32), on_device(place, session, 16))
        if place.on_gpu
        else (on_device(place, session, 2),) * 2
    )
    large()
    with traced() as kernels:
        for _ in range(10):
            large()
    place.add("float16, kernels", batch=32, busy=kernels.busy, longest=kernels.longest(12))
    seconds = median_seconds(lambda: (large(), half()), place.scale.seconds / 2)
    place.add("batches of 32 and 16 in turn, not captured", ms=1e3 * seconds)
    images = batch_of(place, 32)
    seconds = median_seconds(
        lambda: session.run(["probabilities"], {"images": images}), place.scale.seconds / 2
    )
    place.add("float16, session.run on pageable memory", batch=32, ms=1e3 * seconds)


def open_session(place: Place, path: Path, options: Mapping[str, str]) -> ort.InferenceSession:
    wanted: list[Any] = [(CUDA, dict(options))] if place.on_gpu else []
    session = ort.InferenceSession(path, providers=[*wanted, CPU])
    if wanted and session.get_providers()[0] != CUDA:
        raise RuntimeError("the CUDA provider did not start")
    return session


def on_device(place: Place, session: ort.InferenceSession, batch: int) -> Callable[[], object]:
    """Runs a batch that lies on the card, whose answers stay there."""
    device = place.device
    binding = session.io_binding()
    source = ort.OrtValue.ortvalue_from_numpy(batch_of(place, batch), device, 0)
    target = ort.OrtValue.ortvalue_from_shape_and_type([batch, 10], np.float32, device, 0)
    binding.bind_ortvalue_input("images", source)
    binding.bind_ortvalue_output("probabilities", target)

    def step() -> object:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return source, target

    return step


def bfloat16(fp16: Path, path: Path) -> Path:
    """The variant fp16 with bfloat16 in the place of float16."""
    half, brain = TensorProto.FLOAT16, TensorProto.BFLOAT16
    model = onnx.load(fp16)
    for tensor in model.graph.initializer:
        if tensor.data_type == half:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(
                onnx.helper.make_tensor(
                    tensor.name, brain, tensor.dims, _upper_halves(values), raw=True
                )
            )
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == half:
                attribute.i = brain
    del model.graph.value_info[:]
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = 22  # the first whose Conv and MaxPool know bfloat16
    onnx.save_model(model, path)
    return path


def _upper_halves(values: NDArray[np.float32]) -> bytes:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x8000) >> 16).astype(np.uint16).tobytes()


def batch_of(place: Place, count: int) -> NDArray[np.uint8]:
    some = photographs(place, 8)
    return np.ascontiguousarray(some[np.arange(count) % len(some)])

"""The whole main job on handwritten digits: train, export, register, promote, serve, classify.

Runs the same `vgg19` commands that a user types, on scikit-learn's digits (1,797 real scans that
ship inside the package), and writes everything below one directory. `make demo` calls it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

OUTPUT = Path("demo-output")
DATA, RUN, STORE = OUTPUT / "digits", OUTPUT / "run", OUTPUT / "bentoml"
OTHERS = OUTPUT / "others"
SERVER_LOG = OUTPUT / "server.log"

CONFIG = Path(__file__).with_name("digits.yaml")
TEST_FRACTION = 0.2
_OTHERS = 200
EXPECTED_ACCURACY = 0.93  # measured: 0.972
START_TIMEOUT_S = 120

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, _exit)
    os.environ["BENTOML_HOME"] = str(STORE.resolve())
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    STORE.mkdir(parents=True)
    write_digits(DATA)
    write_others(OTHERS)

    vgg19(
        f"train --config {os.path.relpath(CONFIG)} --data {DATA} --output {RUN} --ood-data {OTHERS}"
    )
    vgg19(f"export {RUN}")
    vgg19(f"register {RUN}")
    vgg19("promote latest")
    vgg19("models")
    http_port, grpc_port = free_port(), free_port()
    with server(http_port, grpc_port):
        image = held_out_image()
        http_label, http_probability = classify_over_http(image, http_port)
        grpc_label, grpc_probability = classify_over_grpc(image, grpc_port)

    console.print(f"\n[bold]{image}[/bold], true label [bold]{image.parent.name}[/bold]")
    console.print(f"  HTTP  {http_label}  (probability {http_probability:.4f})")
    console.print(f"  gRPC  {grpc_label}  (probability {grpc_probability:.4f})")
    held_out = json.loads((RUN / "metrics.json").read_text())["held_out"]
    accuracy, images = held_out["accuracy"], held_out["images"]
    console.print(f"Accuracy on the {images} held-out digits: [bold]{accuracy:.1%}[/bold]")
    show_where()
    console.print(f"\nDone in {time.monotonic() - started:.0f} s; the server has stopped.")
    if accuracy < EXPECTED_ACCURACY:
        sys.exit(f"accuracy is {accuracy:.3f}, expected {EXPECTED_ACCURACY}: something is broken")


def write_digits(root: Path) -> None:
    """Write the 8x8 scans as {train,test}/DIGIT/NUMBER.png."""
    digits = load_digits()
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=TEST_FRACTION,
        stratify=digits.target,
        random_state=0,
    )
    for split, numbers in (("train", train), ("test", test)):
        for number in numbers:
            path = root / split / str(digits.target[number]) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    console.print(f"{len(train)} digits to train and {len(test)} held out, written to {root}")


def write_others(root: Path) -> None:
    """Write images of something else: pieces of two photographs, grey as the digits are, and digits
    whose quarters are shuffled."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pieces = []
    for photograph in load_sample_images().images:
        grey = photograph.mean(axis=2).astype(np.uint8)
        for _ in range(_OTHERS // 4):
            size = int(rng.integers(64, 256))
            top, left = (int(rng.integers(0, side - size)) for side in grey.shape)
            pieces.append(grey[top : top + size, left : left + size])
    for digit in load_digits().images[: _OTHERS // 2]:
        pixels = np.round(digit * (255 / 16)).astype(np.uint8)
        quarters = [pixels[:4, :4], pixels[:4, 4:], pixels[4:, :4], pixels[4:, 4:]]
        pieces.append(np.block([[quarters[1], quarters[2]], [quarters[3], quarters[0]]]))
    for number, piece in enumerate(pieces):
        Image.fromarray(piece).save(root / f"{number:03}.png")
    console.print(f"{len(pieces)} images of something else written to {root}")


def vgg19(arguments: str) -> None:
    """Run a `vgg19` command as a user would, and stop the demo if it fails."""
    console.print(f"\n[bold green]$ vgg19 {arguments}[/bold green]")
    with process(["vgg19", *shlex.split(arguments)]) as command:
        if command.wait() != 0:
            sys.exit(f"vgg19 {arguments} failed")


@contextmanager
def server(http_port: int, grpc_port: int) -> Iterator[None]:
    """`vgg19 serve`, from ready to stopped."""
    arguments = f"serve --port {http_port} --grpc-port {grpc_port}"
    console.print(f"\n[bold green]$ vgg19 {arguments}[/bold green]   (log: {SERVER_LOG})")
    with SERVER_LOG.open("w") as log, process(["vgg19", *shlex.split(arguments)], log) as serving:
        wait_until_ready(f"http://127.0.0.1:{http_port}/readyz", serving)
        yield


@contextmanager
def process(command: list[str], log: Any = None) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, of which nothing is left at the end.

    The terminal's Ctrl-C reaches only this script, which then ends the group in order.
    """
    command[0] = str(Path(sys.executable).with_name(command[0]))
    child = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
    try:
        yield child
    finally:
        try:
            if child.poll() is None:
                child.terminate()
                child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            pass
        finally:  # a second Ctrl-C ends up here as well
            with suppress(ProcessLookupError):  # as it should be
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def wait_until_ready(url: str, serving: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if serving.poll() is not None:
            sys.exit(f"the server ended with {serving.returncode}:\n{SERVER_LOG.read_text()}")
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    sys.exit(f"the server was not ready within {START_TIMEOUT_S} s, see {SERVER_LOG}")


def held_out_image() -> Path:
    return next((DATA / "test" / "7").iterdir())


def classify_over_http(image: Path, port: int) -> tuple[str, float]:
    url = f"http://127.0.0.1:{port}/classify?top_k=1"
    console.print(f"POST {url} with {image}, as Content-Type: image/png")
    reply = httpx.post(
        url,
        content=image.read_bytes(),
        headers={"Content-Type": "image/png"},
        trust_env=False,  # a proxy has no business here
    )
    console.print(reply.raise_for_status().text)
    best = reply.json()["images"][0]["predictions"][0]
    return best["label"], best["probability"]


def classify_over_grpc(image: Path, port: int) -> tuple[str, float]:
    """With Triton's client: any client of the Open Inference Protocol does."""
    from tritonclient import grpc

    with grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = grpc.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([image.read_bytes()], dtype=object))
        reply = client.infer("vgg19", [tensor])
        return reply.as_numpy("label")[0].decode(), float(reply.as_numpy("probabilities").max())


def show_where() -> None:
    console.print(f"""
Written below {OUTPUT}/:
  digits/        the images, as {{train,test}}/CLASS/FILE
  others/        images of something else, which the report tells apart
  run/           report.html to look at, metrics.json, checkpoints/, and bundle/ with model.onnx
  bentoml/       the model store

Try next:
  [bold]. .venv/bin/activate && export BENTOML_HOME=$PWD/{STORE}[/bold]
  [bold]vgg19 evaluate {RUN}[/bold]              (precision and recall of each digit)
  [bold]vgg19 serve[/bold]                                 (then, in a second terminal:)
  [bold]vgg19 classify http://127.0.0.1:3000 {DATA}/test/3/*.png[/bold]
  [bold]bentoml models get vgg19:latest[/bold]             (what the store knows about it)
Your own images: see README.md.""")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)  # through every `finally`


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; nothing is left running")

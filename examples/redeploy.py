"""`make demo-redeploy`: a champion trained on few digits, a better one, a poisoned one, and back.

A service runs all the while, and a client asks it over HTTP; every request is counted. Each job is
`vgg19 redeploy`, as a scheduler would start it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

OUTPUT = Path("redeploy-output")
CONFIG = "examples/redeploy.yaml"
URL = "http://127.0.0.1:3900"
FEW, MANY = 600, 1200


def main() -> None:
    if OUTPUT.exists():
        shutil.rmtree(OUTPUT)
    (OUTPUT / "bentoml").mkdir(parents=True)
    os.environ["BENTOML_HOME"] = str((OUTPUT / "bentoml").resolve())
    write_digits(OUTPUT / "base", 0, FEW)
    write_digits(OUTPUT / "new", FEW, FEW + 1)
    print(f"\n=== a first model, from {FEW} digits (no service runs yet)", flush=True)
    without_services = OUTPUT / "first.yaml"
    text = Path(CONFIG).read_text(encoding="utf-8")
    without_services.write_text(text.partition("services:")[0], encoding="utf-8")
    expect(0, "redeploy", "--config", str(without_services))

    with service(), requests() as seen:
        print(f"\n=== {MANY - FEW} digits more", flush=True)
        write_digits(OUTPUT / "new", FEW, MANY)
        expect(0, "redeploy", "--config", CONFIG)
        print("\n=== 500 more, whose labels are shuffled", flush=True)
        write_digits(OUTPUT / "new", MANY, MANY + 500, shuffled=True)
        expect(3, "redeploy", "--config", CONFIG)
        expect(0, "redeploy", "--config", CONFIG)  # nothing new
        print("\n=== back to the first", flush=True)
        expect(0, "rollback")
        time.sleep(5)
    expect(0, "history")
    print("\nanswers while all this happened, by version:")
    for version, count in seen.items():
        print(f"  {version}: {count}")
    failures = sum(count for version, count in seen.items() if version.startswith("failed"))
    if failures or len(seen) != 2:
        sys.exit(f"{failures} requests failed; two versions were to answer")
    print(f"not one failed; the reports are in {OUTPUT}/state/jobs/*/report.html")


def write_digits(root: Path, first: int, last: int, *, shuffled: bool = False) -> None:
    """Scans number `first` to `last` as root/LABEL/NUMBER.png."""
    digits = load_digits()
    labels = digits.target[first:last]
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    for number, label in zip(range(first, last), labels, strict=True):
        path = root / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(digits.images[number] * (255 / 16)).astype(np.uint8)).save(path)


def expect(code: int, *arguments: str) -> None:
    print(f"$ vgg19 {' '.join(arguments)}", flush=True)
    result = subprocess.run([command("vgg19"), *arguments], check=False)
    if result.returncode != code:
        sys.exit(f"vgg19 {arguments[0]} ended with {result.returncode}, expected {code}")


@contextmanager
def service() -> Iterator[None]:
    """`vgg19 serve`, from ready to stopped."""
    arguments = ["serve", "--port", "3900", "--grpc-port", "3901"]
    with (OUTPUT / "server.log").open("w") as log:
        process = subprocess.Popen([command("vgg19"), *arguments], stdout=log, stderr=log)
    try:
        while not answers():
            if process.poll() is not None:
                sys.exit(f"the service ended; see {OUTPUT}/server.log")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@contextmanager
def requests() -> Iterator[Counter[str]]:
    """A client that asks twice a second: versions that answered, and failures."""
    seen: Counter[str] = Counter()
    done = threading.Event()
    image = next((OUTPUT / "base").rglob("*.png")).read_bytes()

    def ask() -> None:
        headers = {"Content-Type": "image/png"}
        while not done.wait(0.5):
            try:
                reply = httpx.post(f"{URL}/classify", content=image, headers=headers, timeout=60)
                reply.raise_for_status()
                seen[reply.json()["model_version"]] += 1
            except httpx.HTTPError as error:
                seen[f"failed: {error}"] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    main()

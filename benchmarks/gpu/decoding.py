"""What the machine's cores can prepare at most, when they do nothing else: a service can't answer
more JPEGs than that, whatever the card can do."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from benchmarks.gpu.place import Place
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing
from models.machine import cpu_count


def measure_decoding(place: Place) -> None:
    """Decode, crop and resize, by one process and by one for each core."""
    for processes in sorted({1, cpu_count()}):
        with ProcessPoolExecutor(processes) as pool:
            prepare = partial(images_per_second, place)
            list(pool.map(prepare, [0.0] * processes))  # each has started and imported all
            rates = list(pool.map(prepare, [2 * place.scale.seconds] * processes))
        place.add(f"decode, crop and resize, {processes} processes", images_per_s=sum(rates))


def images_per_second(place: Place, seconds: float) -> float:
    """Of JPEGs of 500 x 400 that this process prepares as the service does."""
    preprocessing = Preprocessing(image_size=place.scale.image_size)
    content = next(place.data.glob("val/*/*.jpg")).read_bytes()
    images, started = 0, time.perf_counter()
    while True:
        load_image(content, preprocessing)
        images += 1
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return images / elapsed

"""This project's service beside other ways to serve the same model, on the same machine.

    python -m benchmarks.serving --model null --rounds 3 --seconds 10

Servers take turns, one at a time, so that each has all cores (which it shares with the clients) and
a slow minute hits all of them. With the *null* model, which costs nothing, what is measured is
decoding, batching and transport; with the *real* one, VGG-19 at 224 px, mostly ONNX Runtime. A
server's answer is compared with the right one before each measurement.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from benchmarks.peers import common
from benchmarks.plots import bar_chart
from benchmarks.report import OUTPUT, save
from benchmarks.serving.alone import Others, decode_alone, repeat
from benchmarks.serving.asking import answers_per_second, ask, ask_in_a_loop
from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.load import check_tools
from benchmarks.serving.results import Failure, Measurement, Row, markdown, summarise
from benchmarks.serving.running import Contender, Running, log_tail, run
from benchmarks.serving.scenarios import REAL, REFERENCE, SCENARIOS, Scenario
from benchmarks.serving.workload import (
    PLACE,
    USUAL,
    Expected,
    ServedBundle,
    expected,
    photographs,
    prepare,
)
from models.imaging.image import load_image
from models.imaging.preprocessing import Preprocessing

PEERS_DECODE, OUR_DECODE = "decode + resize alone, the peers'", "decode + resize alone, ours"
BARE_1, BARE_16 = "bare loop, batch 1", "bare loop, batch 16"
_STARTED = [name for name, contender in CONTENDERS.items() if not contender.external]
_EXTERNAL = [name for name, contender in CONTENDERS.items() if contender.external]
_WARM_UP_S = 2.0


class Bench:
    """The measurements of a run, as they come.

    Args:
        seconds: of each measurement.
        at: of contenders that somebody else started, their address by name.
        only: a text that the names of the scenarios to run hold.
    """

    def __init__(
        self, contenders: Sequence[Contender], seconds: float, at: Mapping[str, str], only: str
    ) -> None:
        self.contenders = contenders
        self.seconds = seconds
        self.at = at
        self.only = only
        self.images = photographs()
        self.measurements: list[Measurement] = []
        self.failures: list[Failure] = []
        self.rate = 0.0
        self._expected: dict[str, Expected] = {}

    def run_round(self, served: ServedBundle, number: int) -> None:
        """Every server once, beginning with another one each time; then those at a constant rate,
        which the first round has set."""
        scenarios = [
            s
            for s in SCENARIOS
            if s.model == served.name and self.only in s.name and (self.at or not s.beside_external)
        ]
        if not scenarios:
            return
        self._expected = expected(served, self.images)
        contenders = [one for one in self.contenders if served.name in one.models]
        shift = number % len(contenders)
        order = [*contenders[shift:], *contenders[:shift]]
        self._run_alone(served, number)
        loops = [s for s in scenarios if s.kind != "rate"]
        for contender in order if loops else []:
            self._run_server(contender, served, loops, number)
        self.rate = self.rate or self._half_of_slowest()
        constant = [s for s in scenarios if s.kind == "rate"]
        if constant and self.rate:
            for contender in order:
                self._run_server(contender, served, constant, number)

    def _run_server(
        self,
        contender: Contender,
        served: ServedBundle,
        scenarios: Sequence[Scenario],
        number: int,
    ) -> None:
        """One that fails is reported, with the end of its log, and the rest goes on."""
        place = PLACE.resolve() / "logs" / contender.name.replace(" ", "-")
        scenario = scenarios[0]
        at = self.at.get(contender.name)
        try:
            with run(contender, served, place, self.images[USUAL], at) as running:
                warm_up = min(_WARM_UP_S, self.seconds)
                ask_in_a_loop(running, self.images[USUAL], scenario.connections or 16, warm_up)
                for scenario in scenarios:
                    self._measure(running, scenario, number)
        except Exception as error:  # whatever a server does must not end the run
            reason = (
                f"{str(error)[-1000:]}\n{log_tail(place)}".strip()
            )  # `serve` says its whole log
            print(f"FAILED {contender.name}, {scenario.name}: {reason}", flush=True)
            self.failures.append(
                Failure(contender.name, served.name, scenario.name, number, reason)
            )

    def _measure(self, running: Running, scenario: Scenario, number: int) -> None:
        name = running.contender.name
        if not running.contender.takes(scenario.kind):
            return
        running.tree.settle()  # what clients left behind when the last measurement ended
        for image in filter(None, (scenario.image, scenario.also)):
            running.check(self.images[image], self._expected[image])
        right, second_runs = self._expected[scenario.image], running.second_runs()
        before = running.tree.cpu_seconds()
        with Others() as others:
            load = ask(running, scenario, self.images, right, self.seconds, self.rate)
            cpu_s = running.tree.cpu_seconds() - before
            others.not_counting(cpu_s)
        self._add(
            Measurement(
                server=name,
                model=scenario.model,
                scenario=scenario.name,
                round=number,
                requests_per_second=answers_per_second(scenario, load),
                p50_ms=load.p50_ms,
                p95_ms=load.p95_ms,
                p99_ms=load.p99_ms,
                cpu_ms_per_request=1e3 * cpu_s / max(1, load.requests),
                pss_mb=running.tree.pss_bytes() / 1e6,
                errors=load.errors,
                second_runs=(running.second_runs() - second_runs) / max(1, load.requests),
                # Somebody else's server would be taken for a disturbance.
                other_cores=0.0 if running.contender.external else others.cores,
            )
        )

    def _run_alone(self, served: ServedBundle, number: int) -> None:
        """What no server can be faster than: decoding, or the model in a loop."""
        if served.name == "null":
            data = self.images[USUAL]
            ours = partial(load_image, data, Preprocessing())
            theirs = partial(common.decode, data)
            for name, decode in ((PEERS_DECODE, theirs), (OUR_DECODE, ours)):
                self._add(decode_alone(name, decode, self.seconds, number))
            return
        image = common.decode(self.images[USUAL])
        model = common.load(str(served.model_file))
        for name, size in ((BARE_1, 1), (BARE_16, 16)):
            with Others() as others:
                rate = repeat(partial(model.run, [image] * size), self.seconds) * size
            self._add(
                Measurement(name, served.name, REAL.name, number, rate, other_cores=others.cores)
            )

    def _half_of_slowest(self) -> float:
        rates = [
            m.requests_per_second
            for m in self.measurements
            if m.scenario == REFERENCE.name
            and m.server in CONTENDERS
            and CONTENDERS[m.server].folder is not None
            and not CONTENDERS[m.server].external
        ]
        return min(rates, default=0.0) / 2

    def _add(self, measurement: Measurement) -> None:
        print(
            f"{measurement.server}, {measurement.model}, {measurement.scenario}: "
            f"{measurement.requests_per_second:.1f}/s, p99 {measurement.p99_ms:.1f} ms, "
            f"{measurement.cpu_ms_per_request:.2f} ms of CPU, {measurement.errors} errors, "
            f"others used {measurement.other_cores:.1f} cores",
            flush=True,
        )
        self.measurements.append(measurement)


def main() -> None:
    options = _options()
    check_tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers are stopped then, too
    bench = Bench(_present(options.servers), options.seconds, options.at, options.only)
    bundles = [prepare(name) for name in options.model]
    for number in range(options.rounds):
        for served in bundles:
            bench.run_round(served, number)
    rows = summarise(
        bench.measurements,
        [scenario.name for scenario in SCENARIOS],
        [*CONTENDERS, PEERS_DECODE, OUR_DECODE, BARE_1, BARE_16],
    )
    write(rows, bench)
    print(markdown(rows, bench.failures))


def write(rows: Sequence[Row], bench: Bench) -> None:
    """serving.json, and the charts."""
    report = {
        "command": " ".join(sys.argv),
        "seconds": bench.seconds,
        "constant_rate_per_second": bench.rate,
        "failures": [asdict(failure) for failure in bench.failures],
        "measurements": [asdict(measurement) for measurement in bench.measurements],
        "summary": [asdict(row) for row in rows],
    }
    save("serving", report)
    charts = (
        (REFERENCE, "null", "a model that costs nothing", "requests a second"),
        (REAL, "real", "VGG-19", "images a second"),
    )
    for scenario, name, title, unit in charts:
        values = {
            row.server: row.medians["requests_per_second"]
            for row in rows
            if row.scenario == scenario.name
        }
        if values:
            bar_chart(
                values,
                title=f"{title}, {scenario.name}",
                unit=f"{unit} (more is better)",
                path=OUTPUT / f"serving-{name}.png",
            )


def _present(names: Sequence[str]) -> list[Contender]:
    """Those that this machine can run; of others it says what they need."""
    found = []
    for contender in (CONTENDERS[name] for name in names):
        if missing := contender.missing():
            print(f"{contender.name} is left out: first {' and '.join(missing)}", flush=True)
        else:
            found.append(contender)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serving, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument(
        "--servers", default=",".join(_STARTED), help="names with commas; default: %(default)s"
    )
    parser.add_argument(
        "--at", action="append", default=[], metavar="NAME=URL",
        help=f"a server that runs already, of {', '.join(_EXTERNAL)}; see benchmarks/peers",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios whose names hold it")
    parser.add_argument("--model", choices=["null", "real", "both"], default="both")
    options = parser.parse_args()
    options.servers = [name.strip() for name in options.servers.split(",")]
    options.at = {name: url for name, _, url in (word.partition("=") for word in options.at)}
    for given, known, what in (
        (options.servers, _STARTED, "server"),
        (options.at, _EXTERNAL, "server for --at NAME=URL"),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"no {what} '{unknown[0]}'; there are {', '.join(known)}")
    for name, url in options.at.items():
        if not url.startswith("http://"):
            parser.error(f"--at {name} has no address; write '{name}=http://127.0.0.1:8000'")
    if not any(options.only in scenario.name for scenario in SCENARIOS):
        names = "; ".join(scenario.name for scenario in SCENARIOS)
        parser.error(f"no scenario's name holds '{options.only}'; there are {names}")
    if options.at and options.model == "both":
        parser.error("a server that runs already has one model: add --model null or --model real")
    options.servers += options.at
    options.model = ["null", "real"] if options.model == "both" else [options.model]
    return options


if __name__ == "__main__":
    main()

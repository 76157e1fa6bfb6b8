"""What is being tried beside production: a version in its shadow, or a canary. One at a time.

Two files beside the versions, as for promotions (`models.registry.promotions`):

.rollout.json    what runs now, and the id of the last event; replaced by rename
.rollouts.jsonl  a line for each event (begun, step, returned, ...), on the disk before that

An event counts once it can be reached from `.rollout.json`, so a crash at any instant leaves the
old state or the new one, of both files together. Whoever changes a rollout names it by its id: of
several workers that come to the same decision, the first one's counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import StoreError
from models.files import staged_file
from models.monitoring.canary_tests import CanaryLimits
from models.monitoring.shadow_rule import ShadowRule
from models.registry import journal

# Hidden, and files: BentoML takes every directory beside the versions for a version.
_STATE = ".rollout.json"
_LOG = ".rollouts.jsonl"
_LOCK = ".rollout.lock"
_MAX_STATE_BYTES = 10_000
# Of a canary: so that its file stays below that, and an hour's typing error isn't a century.
MAX_STEPS, _MAX_HOURS = 50, 8760.0


class Shadow(BaseModel):
    """A version that answers the same images as production, and whose answers nobody gets.

    Args:
        version: the candidate. against: what production was, and must still be.
        rule: what must hold before it is promoted.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["shadow"] = "shadow"
    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    version: str
    against: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    rule: ShadowRule = Field(default_factory=ShadowRule)

    @property
    def age_hours(self) -> float:
        return (datetime.now(UTC) - self.at).total_seconds() / 3600


class Canary(BaseModel):
    """A version that answers a part of the requests.

    Args:
        version: the candidate. against: what production was, and must still be.
        steps: percent of the clients, rising; at 100 the version is promoted.
        wait_hours: how long each step lasts. min_requests: that the canary, and production beside
            it, must have answered in all before the next.
        header: whose value tells clients apart; "": their API key, or else their address.
        step: the number of the present one, from 0. step_at: since when.
    """

    # JSON has no infinity and no NaN: a file that held them couldn't be read again.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: Literal["canary"] = "canary"
    id: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    version: str
    against: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    steps: tuple[float, ...] = Field(min_length=1, max_length=MAX_STEPS)
    wait_hours: float = Field(default=1.0, ge=0, le=_MAX_HOURS)
    min_requests: int = Field(default=100, ge=0)
    header: str = ""
    limits: CanaryLimits = Field(default_factory=CanaryLimits)
    step: int = 0
    step_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def percent(self) -> float:
        return self.steps[self.step]

    @property
    def step_hours(self) -> float:
        return (datetime.now(UTC) - self.step_at).total_seconds() / 3600

    def next_step(self) -> Canary | None:
        """One step further; None: this is the last."""
        if self.step + 1 >= len(self.steps):
            return None
        return self.model_copy(update={"step": self.step + 1, "step_at": datetime.now(UTC)})


Rollout = Annotated[Shadow | Canary, Field(discriminator="kind")]


class Event(BaseModel):
    """One line of the log. `rollout`: the id; `after`: that of the event before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    at: datetime
    kind: Literal["shadow", "canary"]
    rollout: str
    version: str
    what: str
    why: str
    after: str | None = None


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    rollout: Rollout | None = None
    last: str | None = None


def runs_already(rollout: Rollout) -> str:
    """Why no other can begin, and the way out."""
    way_out = f"vgg19 {rollout.kind} --{_WAY_OUT[rollout.kind]}"
    return f"a {rollout.kind} of {rollout.version} runs already; end it with '{way_out}'"


class Rollouts:
    """The rollouts in one directory of the store."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / _STATE
        self._log = directory / _LOG
        self._lock = directory / _LOCK

    def current(self) -> Rollout | None:
        """What is being tried; None: nothing.

        Raises:
            StoreError: the file that says so is damaged.
        """
        return self._read().rollout

    def token(self) -> tuple[int, int] | None:
        """Changes with each event; None before the first."""
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def begin(self, rollout: Rollout, why: str) -> None:
        """Start one.

        Raises:
            StoreError: another one runs.
        """
        with journal.locked(self._lock):
            state = self._read()
            if state.rollout is not None:
                raise StoreError(runs_already(state.rollout))
            self._change(state, rollout, rollout, "begun", why)

    def end(self, rollout: Rollout, what: str, why: str) -> bool:
        """End one; whether it was this one that ran.

        Args:
            what: how, one word for the log. why: for people; one line.
        """
        with journal.locked(self._lock):
            state = self._read()
            if state.rollout is None or state.rollout.id != rollout.id:
                return False
            self._change(state, None, rollout, what, why)
            return True

    def advance(self, canary: Canary, why: str) -> bool:
        """Take a canary's next step; whether it was at this step, and there is a next one."""
        with journal.locked(self._lock):
            state, further = self._read(), canary.next_step()
            now = state.rollout
            at_it = isinstance(now, Canary) and (now.id, now.step) == (canary.id, canary.step)
            if not at_it or further is None:
                return False
            self._change(state, further, further, f"{further.percent}%", why)
            return True

    def promote(self, canary: Canary, do: Callable[[], object], why: str) -> bool:
        """Call `do`, which promotes the version, and end the canary; whether it was at this step.
        Nobody takes it back meanwhile. After a kill in between it is stale, and so is over."""
        with journal.locked(self._lock):
            state = self._read()
            if state.rollout != canary:
                return False
            do()
            self._change(state, None, canary, "promoted", why)
            return True

    def reset(self) -> None:
        """Have nothing run, also where the file is damaged. What was logged before stays in the
        history, from the last event that was begun."""
        with journal.locked(self._lock):
            logged = list(journal.read(self._log, Event))
            self._write(_State(last=logged[-1].id if logged else None))

    def events(self) -> list[Event]:
        """Those that counted, the last one first."""
        by_id = {event.id: event for event in journal.read(self._log, Event)}
        found: list[Event] = []
        last = self._read().last
        while last is not None and last in by_id:
            found.append(by_id.pop(last))  # taken out: a damaged log can't lead in a circle
            last = found[-1].after
        return found

    def _change(
        self, state: _State, new: Rollout | None, about: Rollout, what: str, why: str
    ) -> None:
        event = Event(
            id=uuid.uuid4().hex,
            at=datetime.now(UTC),
            kind=about.kind,
            rollout=about.id,
            version=about.version,
            what=what,
            why=" ".join(why.split()),
            after=state.last,
        )
        journal.append(self._log, event)
        self._write(_State(rollout=new, last=event.id))

    def _read(self) -> _State:
        try:
            with self._file.open("rb") as file:
                content = file.read(_MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return _State()
        try:
            return _State.model_validate_json(content)
        except ValidationError:
            raise StoreError(
                f"{self._file}, which says what is being tried beside production, is damaged; "
                "'vgg19 shadow --stop' repairs it"
            ) from None

    def _write(self, state: _State) -> None:
        with staged_file(self._file) as staging:
            staging.write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")


_WAY_OUT = {"shadow": "stop", "canary": "abort"}

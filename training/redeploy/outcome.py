"""What a redeploy job comes to: an exit code and a line for people, or an error."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import UserError

REFUSED, ROLLED_BACK, IN_SHADOW = 3, 4, 5  # exit codes


class RedeployError(UserError):
    """The job can't go on."""


class JobTerminatedError(UserError):
    """A signal came while it trained; what was reached is saved."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("terminated; run the same command again to continue the job")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Outcome:
    """What a job came to: its exit code, and a line for people."""

    exit_code: int
    message: str

"""What can go wrong with a request, mapped once at each edge: to HTTP in `serving.http.errors`, to
gRPC in `serving.grpc.servicer`. Any other exception is internal: the client sees no word of it."""

from __future__ import annotations

from typing import ClassVar

# All that a client is told of an error that isn't its own.
INTERNAL_ERROR = "the server could not answer; see its log"


class RequestError(Exception):
    """The client's request can't be answered; the message is written for the client.

    `outcome` names the kind in metrics and in the access log.
    """

    outcome: ClassVar[str] = "bad_request"

    @property
    def is_clients(self) -> bool:
        """Whether any model would refuse this request, so that it says nothing of this one."""
        return self.outcome in ("bad_request", "too_large", "not_found")


class BadImage(RequestError):
    """The bytes sent are no image, or a damaged one."""


class BadRequest(RequestError):
    """A parameter or a tensor isn't as the interface says."""


class UnsupportedMedia(RequestError):
    """The content type of the body is none that is accepted."""


class TooLarge(RequestError):
    """The body or the image is above the size limit."""

    outcome = "too_large"


class UnknownModel(RequestError):
    """The model or version asked for isn't served here."""

    outcome = "not_found"


class NotFound(RequestError):
    """There is no such route."""

    outcome = "not_found"


class Unauthenticated(RequestError):
    """No key was sent, or one that isn't known."""

    outcome = "unauthenticated"


class RateLimited(RequestError):
    """This client sends too much.

    Args:
        retry_after_s: when it may try again.
    """

    outcome = "rate_limited"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(RequestError):
    """What is asked for can't be done in the state that the service is in."""

    outcome = "conflict"


class Overloaded(RequestError):
    """The queue is full; try again later."""

    outcome = "rejected"


class NoRoomForBody(Overloaded):
    """The bodies of all requests together are too much already; nothing more of this one is
    read."""


class ShuttingDown(RequestError):
    """The service accepts no more work."""

    outcome = "unavailable"


class DeadlineExceeded(RequestError):
    """The answer was not there within the time limit."""

    outcome = "expired"


class SlowBody(DeadlineExceeded):
    """The request itself was not there within the time limit."""

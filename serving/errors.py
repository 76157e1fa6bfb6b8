"""What can go wrong with a request, mapped once at each edge: to HTTP in `http`, to gRPC in
`grpc_server`. Any other exception is internal: the client sees no word of it."""

from __future__ import annotations

# All that a client is told of an error that isn't its own.
INTERNAL_ERROR = "the server could not answer; see its log"


class RequestError(Exception):
    """The client's request can't be answered; the message is written for the client."""


class BadImage(RequestError):
    """The bytes sent are no image, or a damaged one."""


class BadRequest(RequestError):
    """A parameter or a tensor isn't as the interface says."""


class UnsupportedMedia(RequestError):
    """The content type of the body is none that is accepted."""


class TooLarge(RequestError):
    """The body or the image is above the size limit."""


class UnknownModel(RequestError):
    """The model or version asked for isn't served here."""


class NotThere(RequestError):
    """There is no such route."""


class Unauthenticated(RequestError):
    """No key was sent, or one that isn't known."""


class RateLimited(RequestError):
    """This client sends too much.

    Args:
        retry_after_s: when it may try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(RequestError):
    """What is asked for can't be done in the state that the service is in."""


class Overloaded(RequestError):
    """The queue is full; try again later."""


class ShuttingDown(RequestError):
    """The service accepts no more work."""


class DeadlineExceeded(RequestError):
    """The answer was not there within the time limit."""

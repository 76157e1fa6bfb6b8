"""What uvicorn makes of a connection, where it would go astray: an upgrade that isn't taken is
ignored (RFC 9110, 7.8), and connections are kept open for as long as our setting says.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from uvicorn import config as uvicorn_config
from uvicorn.protocols.http.h11_impl import H11Protocol

# Longer than most load balancers keep a connection on which they may send another request.
DEFAULT_KEEP_ALIVE_S = 65
_H11 = f"{__name__}:H11"
_HTTPTOOLS = "serving.http.upgrades:HttpTools"


class Connection:
    """What both parsers' protocols have of ours."""

    keep_alive_s = DEFAULT_KEEP_ALIVE_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout_keep_alive = Connection.keep_alive_s

    def _should_upgrade(self) -> bool:
        """Never, and without the line that uvicorn would log for each: there are no websockets."""
        return False


class H11(Connection, H11Protocol):  # type: ignore[misc]  # mypy reads nothing of uvicorn
    """With h11, which takes a body for a body whatever else is asked for."""


def install() -> None:
    """Have uvicorn take ours, by its own table of protocols: BentoML, which starts it, passes none.

    Before uvicorn loads its configuration, that is when `service` is imported.
    """
    fast = _H11 if find_spec("httptools") is None else _HTTPTOOLS  # it isn't there on Windows
    uvicorn_config.HTTP_PROTOCOLS.update({"auto": fast, "httptools": _HTTPTOOLS, "h11": _H11})


def keep_open(seconds: int) -> None:
    """How long a connection that comes from now on is kept open without a request."""
    Connection.keep_alive_s = seconds

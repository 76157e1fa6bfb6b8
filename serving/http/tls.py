"""The certificate of HTTPS, where BentoML serves it (`bentoml serve --ssl-certfile ...`).

A connection has one certificate with its key, of before a change or of after it, never one of each.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from models import bentoml_adapter
from serving.reloading import Reloadable


def http_tls() -> Reloadable | None:
    """What renews it; None: HTTP is plain, or the certificate a proxy's."""
    config = bentoml_adapter.http_server_config()
    if config is None:
        return None
    named = (config.ssl_certfile, config.ssl_keyfile, config.ssl_ca_certs)
    return Reloadable(
        "the certificate of HTTPS",
        [Path(file) for file in named if file],
        lambda: _renew(config),
        read_before=True,
    )


def _renew(config: Any) -> None:
    """For the connections to come.

    The server's own context can't be exchanged, and loading into it while it is used would leave a
    connection with a new certificate and the old key. But each connection may be given another
    context when the client's first message is there, whether or not that names a server.
    """
    renewed = bentoml_adapter.fresh_tls(config)  # raises if certificate and key don't fit (yet)

    def use_renewed(connection: ssl.SSLObject, _: str, __: ssl.SSLContext) -> None:
        connection.context = renewed

    config.ssl.sni_callback = use_renewed

"""The certificate of HTTPS, where BentoML serves it (`bentoml serve --ssl-certfile ...`)."""

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
    files = [Path(file) for file in (config.ssl_certfile, config.ssl_keyfile) if file]
    return Reloadable("the certificate of HTTPS", files, lambda: _renew(config), True)


def _renew(config: Any) -> None:
    """For the connections to come. Tried out first: a context whose certificate and key don't fit
    each other would refuse every connection."""
    chain = (config.ssl_certfile, config.ssl_keyfile, config.ssl_keyfile_password)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*chain)
    config.ssl.load_cert_chain(*chain)

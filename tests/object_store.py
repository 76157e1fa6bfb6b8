"""A real S3 server in the test process (moto's), for tests of what lies in an object store."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator

import pytest

MISSING = [name for name in ("moto", "s3fs", "flask_cors") if not importlib.util.find_spec(name)]
needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server on a free port; s3fs and the processes that tests start find it by environment."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """The URL of an empty bucket."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"

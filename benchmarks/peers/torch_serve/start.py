"""Archive the handler and start TorchServe with it, as its documentation shows.

The archive is the handler only: the model stays where it is (MODEL_PATH), as with the other peers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testing.ports import free_port

_HERE = Path(__file__).parent
_TOOLS = Path(sys.executable).parent


def configuration() -> str:
    """config.properties: ports of 127.0.0.1 that are free, and requests without a token."""
    return f"""\
inference_address=http://127.0.0.1:{os.environ["PORT"]}
management_address=http://127.0.0.1:{free_port()}
metrics_address=http://127.0.0.1:{free_port()}
grpc_inference_port={free_port()}
grpc_management_port={free_port()}
initial_worker_port={free_port()}
disable_token_authorization=true
job_queue_size=1000
max_request_size=100000000
model_store={Path.cwd()}
load_models=vgg19.mar
"""


def model_configuration() -> str:
    template = (_HERE / "model-config.yaml").read_text()
    return template.format(workers=os.environ["WORKERS"])


def main() -> None:
    Path("model-config.yaml").write_text(model_configuration())
    subprocess.run(
        [
            _TOOLS / "torch-model-archiver", "--force", "--model-name", "vgg19", "--version", "1.0",
            "--handler", _HERE / "handler.py", "--config-file", "model-config.yaml",
        ],
        check=True,
    )  # fmt: skip
    Path("config.properties").write_text(configuration())
    command = [
        str(_TOOLS / "torchserve"), "--start", "--foreground", "--disable-token-auth",
        "--ts-config", "config.properties", "--log-config", str(_HERE / "log4j2.xml"),
        "--no-config-snapshots",
    ]  # fmt: skip
    os.execv(command[0], command)  # a list of our own words


if __name__ == "__main__":
    main()

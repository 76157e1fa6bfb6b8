#!/usr/bin/env bash
# A virtual environment of what this project needs, over the packages of a Python that has PyTorch,
# without a network:
#
#     benchmarks/gpu/install.sh PYTHON WHEELS VENV
#
# What is missing or another version comes from the folder WHEELS (benchmarks/gpu/wheels.py fills
# it); large ones may lie there in parts.
set -euo pipefail
python=$1 wheels=$2 venv=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
"$python" -m venv --without-pip "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
below=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Ours first, then what the machine has; the order of the lines is that of sys.path.
printf '%s\n%s\n' "$root" "$below" >"$site/machine.pth"
if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --prefix "$venv" --python "$venv/bin/python" "$wheels"/*.whl 2>/dev/null ||
    "$python" -m pip --python "$venv/bin/python" install --quiet --no-index --no-deps --no-compile --no-cache-dir "$wheels"/*.whl
fi
# ONNX Runtime looks for CUDA and cuDNN beside itself.
[ -e "$site/nvidia" ] || [ ! -e "$below/nvidia" ] || ln -s "$below/nvidia" "$site/nvidia"
printf '#!%s\nfrom cli.main import main\nmain()\n' "$venv/bin/python" >"$venv/bin/vgg19"
chmod +x "$venv/bin/vgg19"

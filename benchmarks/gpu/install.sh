#!/usr/bin/env bash
# A virtual environment of what this project needs, over the packages of a Python that has PyTorch,
# without a network:
#
#     benchmarks/gpu/install.sh PYTHON WHEELS VENV
#
# What is missing there, or another version, comes from the folder WHEELS, which
# `python -m benchmarks.gpu.wheels` fills; large ones may lie there in parts.
set -euo pipefail
python=$1 wheels=$2 venv=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
"$python" -m venv --without-pip "$venv"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
below=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Ours first, then what the machine has: the lines come to sys.path behind the environment's own.
printf '%s\n%s\n' "$root" "$below" >"$site/machine.pth"
joined=$(mktemp -d)
trap 'rm -rf "$joined"' EXIT
for first in "$wheels"/*.part00; do
  [ -e "$first" ] || continue
  name=$(basename "$first" .part00)
  cat "$wheels/$name".part* >"$joined/$name"
done
shopt -s nullglob
files=("$wheels"/*.whl "$joined"/*.whl)
if [ ${#files[@]} -gt 0 ]; then
  "$python" -m pip --python "$venv/bin/python" install --quiet --no-index --no-deps --no-compile \
    --no-cache-dir --upgrade "${files[@]}"
fi
# ONNX Runtime looks for CUDA and cuDNN beside itself.
[ -e "$site/nvidia" ] || [ ! -e "$below/nvidia" ] || ln -s "$below/nvidia" "$site/nvidia"
printf '#!%s\nfrom cli.main import main\nmain()\n' "$venv/bin/python" >"$venv/bin/vgg19"
chmod +x "$venv/bin/vgg19"

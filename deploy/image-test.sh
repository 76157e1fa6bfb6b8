#!/usr/bin/env bash
# `make image-test`: build the CPU image without a Docker daemon, run it as it would run, and check it.
#
# For Debian 12, as root. Installs buildah and debootstrap, makes a base system with debootstrap under the
# name that the Dockerfile asks for (so no registry is needed), and works in a temporary directory.
# The image is run in its own root file system: read-only, as its own user, with its own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN="$PWD/.venv/bin"
BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
IMAGE=localhost/vgg19:image-test
CA=/etc/ssl/certs/ca-certificates.crt
HTTP=3000 GRPC=3001

[ "$(id -u)" = 0 ] || { echo "run it as root: buildah's chroot isolation needs that"; exit 1; }
WORK=$(mktemp -d)
export BENTOML_HOME="$WORK/bentoml" BENTOML_DO_NOT_TRACK=True
export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF="$WORK/storage.conf"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n' "$WORK" "$WORK" > "$CONTAINERS_STORAGE_CONF"
server=""
cleanup() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  for place in root/etc/hosts root/tmp root/proc root/dev root; do umount -l "$WORK/$place" 2>/dev/null || true; done
  rm -rf "$WORK"
}
trap cleanup EXIT
step() { printf '\n=== %s\n' "$*"; }
fail() { echo "FAILED: $*"; [ ! -f "$WORK/log" ] || tail -40 "$WORK/log"; exit 1; }

step "tools"
if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah debootstrap >/dev/null
fi
buildah --version

step "base image by debootstrap, as $BASE_IMAGE"
debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$WORK/base" > "$WORK/debootstrap.log"
rm -rf "$WORK"/base/usr/lib/python3*/EXTERNALLY-MANAGED "$WORK"/base/var/cache/apt "$WORK"/base/var/lib/apt/lists
ln -s /usr/bin/python3 "$WORK/base/usr/local/bin/python"
printf '127.0.0.1 localhost\n' > "$WORK/base/etc/hosts"
cp "$CA" "$WORK/base$CA"     # the builder's own authorities, for pip
base=$(buildah from scratch)
buildah add -q "$base" "$WORK/base" / >/dev/null
buildah config --env SSL_CERT_FILE=$CA --env PIP_CERT=$CA --env UV_PYTHON_PREFERENCE=only-system "$base"
buildah commit -q "$base" "$BASE_IMAGE" >/dev/null
buildah rm "$base" >/dev/null
rm -rf "$WORK/base"

step "a small model, registered and promoted; its Bento"
"$BIN/python" -c "import sys; from pathlib import Path; from testing.bundles import write_tiny_bundle; write_tiny_bundle(Path(sys.argv[1]))" "$WORK/bundle"
"$BIN/vgg19" register "$WORK/bundle"
"$BIN/vgg19" promote latest
"$BIN/vgg19" build | tee "$WORK/built"
tag=$(sed -n 's/^built \([^;]*\);.*/\1/p' "$WORK/built")
version=$(sed -n 1p "$BENTOML_HOME/models/vgg19/.production")

step "bentoml containerize --backend buildah"
"$BIN/bentoml" containerize "$tag" --backend buildah -t "$IMAGE" > "$WORK/containerize.log" 2>&1 \
  || { tail -40 "$WORK/containerize.log"; fail "the image can't be built"; }

step "what is in it"
container=$(buildah from "$IMAGE")
root=$(buildah mount "$container")
size=$(du -sm --exclude=./home/bentoml/bento/models "$root" | cut -f1)
echo "image without the model: $size MB; the largest packages:"
du -m -d 2 "$root" 2>/dev/null | sort -rn | sed -n "s#$root##;2,9p"
du -sm "$root"/app/.venv/lib/python3*/site-packages/* | sort -rn | sed -n "s#$root##;1,8p"
# 180 MB of it are OpenVINO.
[ "$size" -le 750 ] || fail "$size MB, the limit is 750"
for name in app/.venv/lib/python3*/site-packages/torch* home/bentoml/bento/src/training home/bentoml/bento/src/tests; do
  compgen -G "$root/$name" >/dev/null && fail "$name is in the image"
done
for compiler in gcc cc g++ clang; do
  [ ! -e "$root/usr/bin/$compiler" ] || fail "$compiler is in the image"
done
user=$(buildah inspect --format '{{.OCIv1.Config.User}}' "$container")
[ "$user" = bentoml ] || fail "its user is '$user'"
entrypoint=$(buildah inspect --format '{{index .OCIv1.Config.Entrypoint 0}}' "$container")
workdir=$(buildah inspect --format '{{.OCIv1.Config.WorkingDir}}' "$container")
mapfile -t environment < <(buildah inspect --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$container" | grep =)
echo "user $user, entry point $entrypoint"

step "running: root file system read-only, only /tmp writable, user 1034"
environment+=(BENTOML_HOME=/tmp/bentoml)  # as the manifests say
mkdir "$WORK/root"
mount --bind "$root" "$WORK/root"
mount -o remount,ro,bind "$WORK/root"
# What a container runtime gives every container; the image's own may be empty.
printf '127.0.0.1 localhost\n' > "$WORK/hosts"
[ ! -e "$WORK/root/etc/hosts" ] || mount --bind "$WORK/hosts" "$WORK/root/etc/hosts"
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$WORK/root/tmp"
mount -t proc proc "$WORK/root/proc" 2>/dev/null || mount --rbind /proc "$WORK/root/proc"
mount --rbind /dev "$WORK/root/dev"
env -i "${environment[@]}" chroot --userspec=1034:1034 "$WORK/root" /bin/sh -c "cd $workdir && exec $entrypoint" > "$WORK/log" 2>&1 &
server=$!
for _ in $(seq 120); do
  kill -0 "$server" 2>/dev/null || fail "it ended"
  curl -fs "http://127.0.0.1:$HTTP/readyz" >/dev/null && break
  sleep 0.5
done
curl -fs "http://127.0.0.1:$HTTP/readyz" >/dev/null || fail "not ready"
grep -q "^Uid:.1034.1034" "/proc/$server/status" || fail "it doesn't run as 1034"
env -i chroot --userspec=1034:1034 "$WORK/root" /bin/sh -c 'touch /home/bentoml/x' 2>/dev/null && fail "the root file system is writable"

step "answers"
"$BIN/python" deploy/image_client.py "http://127.0.0.1:$HTTP" "127.0.0.1:$GRPC" "$version" || fail "wrong answers"
env -i "${environment[@]}" chroot --userspec=1034:1034 "$WORK/root" python -c \
  "import urllib.request as u; u.urlopen('http://127.0.0.1:$HTTP/livez', timeout=4)" || fail "its health check"

step "SIGTERM"
kill -TERM "$server"
code=0; wait "$server" || code=$?
[ "$code" = 0 ] || fail "it ended with $code"
server=""
echo "exit code 0"

step "SBOM"
"$BIN/cyclonedx-py" requirements deploy/requirements-cpu.lock --of JSON -o build/sbom-cpu.json
"$BIN/python" -c "import json; print(len(json.load(open('build/sbom-cpu.json'))['components']), 'components in build/sbom-cpu.json')"
echo; echo "image-test passed: $tag, $size MB without the model"

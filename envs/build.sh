#!/usr/bin/env bash
# Builds an image: envs/build.sh cpu|cuda makes envs/famba-cpu.sif or envs/famba-cuda.sif from envs/image.def and its
# lock. docs/containers.md says how large they are and how long they take.
#
# Needs Apptainer and debootstrap, and root or the right to use user namespaces. pip downloads the packages here, with
# the host's settings; the build itself sees a folder of files. Options, as variables:
#   TORCH_INDEX   where torch's CPU build is, if pip's own settings do not lead to it: PyTorch's CPU index
#   MIRROR        the Debian mirror [the one that this machine uses]
#   JOBS          files of the CUDA extensions that compile at a time; each takes up to 4 GB [the processors, at most 4]
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

stop() {
  echo "envs/build.sh: $*" >&2
  exit 2
}
has() { command -v "$1" >/dev/null; }
sha256() { sha256sum | cut -d ' ' -f 1; }

[[ $# = 1 && $1 =~ ^(cpu|cuda)$ ]] || stop "name the image: cpu or cuda"
IMAGE=envs/famba-$1
has apptainer || stop "Apptainer is missing: apptainer.org/docs/admin says how to install it"
python3 -m pip --version >/dev/null 2>&1 || stop "pip is missing: make .venv/installed sets up an environment with it"
[ "$(id -u)" = 0 ] || grep -q "^$(id -un):" /etc/subuid || unshare --user true 2>/dev/null ||
  stop "neither root nor user namespaces here: ask for an entry in /etc/subuid, or build on another machine"
has debootstrap || stop "debootstrap is missing: apt-get install debootstrap"
has apt-get && MIRROR=${MIRROR:-$(apt-get indextargets --no-release-info --format '$(REPO_URI)' \
  'Component: main' 'Release: bookworm' | sort -u)}
[ -n "${MIRROR:-}" ] ||
  stop "apt knows no mirror of Debian bookworm here: name one, MIRROR=https://.../debian"
JOBS=${JOBS:-$(($(nproc) < 4 ? $(nproc) : 4))}

# what the image is made from, besides its lock
DEFINITION=(envs/image.def)
LOCKS=(--requirement "$IMAGE.txt")
WHENCE="; torch's CPU build comes from TORCH_INDEX=<PyTorch's CPU index>"
if [ "$1" = cuda ]; then
  DEFINITION+=(envs/extensions.sh envs/sdists.sh envs/toolkit.txt)
  LOCKS+=(--requirement envs/toolkit.txt)
  WHENCE=" and envs/toolkit.txt"
fi

STAGE=$(mktemp -d)
PART=$IMAGE.part.sif
trap 'rm -rf "$STAGE" "$PART"' EXIT
mkdir "$STAGE/wheels"
cp -r envs "$STAGE"

# for the image's Python and system, whatever this one's are; with --no-deps pip takes sdists as well, and to read their
# metadata it runs their setup.py, with what is installed here
MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE \
  python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
  --python-version 3.11 $(printf -- '--platform %s ' any linux_x86_64 manylinux{1,2014,_2_{5..34}}_x86_64) \
  ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
  --dest "$STAGE/wheels" "${LOCKS[@]}" ||
  stop "pip could not download all of $IMAGE.txt$WHENCE"

apptainer build --fakeroot --force --notest --bind "$STAGE:/mnt:ro" \
  --build-arg IMAGE="$1" --build-arg MIRROR="$MIRROR" --build-arg JOBS="$JOBS" \
  --build-arg DEFINITION_SHA256="$(cat "${DEFINITION[@]}" | sha256)" --build-arg LOCK_SHA256="$(sha256 <"$IMAGE.txt")" \
  --build-arg REVISION="$(git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null || echo unknown)" \
  --mksquashfs-args "-comp zstd -Xcompression-level 3" "$PART" envs/image.def
apptainer test --cleanenv "$PART" || {
  mv "$PART" "$IMAGE.failed.sif"
  echo "envs/build.sh: the image fails its check; it is left as $IMAGE.failed.sif" >&2
  exit 1
}
mv "$PART" "$IMAGE.sif"
echo "$IMAGE.sif: $(du -m "$IMAGE.sif" | cut -f 1) MiB, sha256 $(sha256 <"$IMAGE.sif"), $SECONDS s"

#!/usr/bin/env bash
# Brings every pin up to date with pyproject.toml, the Makefile's torch and the *.in files here: exact versions with
# hashes, sdists included. What is locked already stays as it is; `envs/lock.sh --upgrade` takes the newest of all.
# Needs uv and pip, and `make test` afterwards.
#
#   requirements.txt   the environment of `make`, Python 3.11 and later; torch is installed before it (see the Makefile)
#   torch.txt          torch for it: the hashes of every build in pip's index, and of the CPU build for Python 3.11
#   torch-cuda.txt     what torch's CUDA build asks for besides
#   famba-cpu.txt      famba-cpu.sif: the same versions, less the tools, with torch's CPU build
#   famba-cuda.txt     famba-cuda.sif: the same versions, less the tools, with torch's CUDA build and its own triton
#   toolkit.txt        what compiles the extensions of famba-cuda.sif and leaves it again: nvcc as torch's CUDA
set -euo pipefail
cd "$(dirname "$0")/.."
TORCH=$(sed -n 's/^TORCH := torch==//p' Makefile)
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

compile() { # compile OUTPUT INPUTS AND OPTIONS...
  local output=envs/$1
  shift
  uv pip compile --generate-hashes --no-header --no-annotate --output-file "$output" --quiet "$@"
  echo "$output: $(grep -c == "$output") packages"
}
pins() { grep -oE '^[a-z0-9.-]+==[^ ;\]+' "envs/$1"; }
without() { # packages that are left out, however they are asked for
  printf '%s ; sys_platform == "never"\n' "$@"
}

FAMBA=(pyproject.toml --extra paper)
compile requirements.txt "${FAMBA[@]}" envs/requirements.in --extra pipeline --extra dev \
  --override <(without torch) --no-emit-package torch --universal --fork-strategy fewest --python-version 3.11 "$@"

# triton is torch's own choice in the CUDA image, and not at all in the other
pins requirements.txt | grep -v '^triton==' >"$SCRATCH/versions"
DEBIAN=(--python-version 3.11 --python-platform x86_64-manylinux_2_28)
IMAGE=("${FAMBA[@]}" envs/image.in --constraint "$SCRATCH/versions" "${DEBIAN[@]}")
compile famba-cpu.txt "${IMAGE[@]}" --override <(without torch) --no-emit-package torch
# mamba-ssm asks for these three for Mamba-3 alone, and imports without them
compile famba-cuda.txt "${IMAGE[@]}" envs/cuda.in --extra cuda \
  --override <(without apache-tvm-ffi quack-kernels tilelang; echo "torch==$TORCH")
# what the image holds anyway is not installed twice, and stays when the toolkit goes
pins famba-cuda.txt >"$SCRATCH/cuda"
mapfile -t HELD < <(sed 's/==.*//; s/^/--no-emit-package=/' "$SCRATCH/cuda")
compile toolkit.txt envs/toolkit.in --constraint "$SCRATCH/cuda" "${DEBIAN[@]}" "${HELD[@]}" "$@"

# torch's CPU build is in no index that uv reads: it comes by pip's own configuration, or from TORCH_INDEX
python3 -m pip download --quiet --no-deps --dest "$SCRATCH" --only-binary :all: --python-version 3.11 \
  --platform manylinux_2_28_x86_64 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH+cpu"
python3 -m pip hash "$SCRATCH"/torch-*.whl | sed -n "s/^--hash/torch==$TORCH+cpu --hash/p" >>envs/famba-cpu.txt

# the environment of `make` takes either build, by the hashes of the images
locked() { awk -v wanted="$2" '/^[a-z]/ { on = $0 ~ wanted } on' "envs/$1"; } # locked LOCK PATTERN: those pins
{
  locked famba-cuda.txt '^torch==' | sed '$s/$/ \\/'
  locked famba-cpu.txt '^torch==' | sed 's/^torch==[^ ]*/   /'
} >envs/torch.txt
locked famba-cuda.txt '^(cuda|nvidia)-' | awk '/^[a-z]/ { on = !/^nvidia-ml-py==/ } on' |
  sed "s/^\([^ ]*==[^ ]*\) /\1 ; sys_platform == 'linux' and platform_machine == 'x86_64' /" >envs/torch-cuda.txt

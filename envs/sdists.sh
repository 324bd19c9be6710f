#!/bin/sh
# sdists.sh LOCK FOLDER: unpacks here the sdists of causal-conv1d and mamba-ssm that lie in FOLDER, each held to its
# hash in the lock first, and makes them compile for the A100 (sm_80) and for Hopper (sm_90) alone. Later GPUs compile
# the PTX of compute_90 when they load it.
#
# Both setup.py files list nine architectures and ask neither TORCH_CUDA_ARCH_LIST nor anything else. One line is added
# behind that list, and replaces it.
set -eu
for name in causal-conv1d mamba-ssm; do
    version=$(sed -n "s/^$name==\([^ ]*\).*/\1/p" "$1")
    hash=$(sed -n "/^$name==/,/^[^ ]*==/s/.*--hash=sha256:\([0-9a-f]*\).*/\1/p" "$1" | head -n 1)
    archive=$(echo "$name" | tr - _)-$version
    echo "$hash  $2/$archive.tar.gz" | sha256sum --check --strict --quiet
    tar -xzf "$2/$archive.tar.gz"
    line='    cc_flag = [f"-gencode=arch=compute_{g[-2:]},code={g}" for g in ("sm_80", "sm_90", "compute_90")]'
    sed -i "s/^    if FORCE_CXX11_ABI:\$/$line\n&/" "$archive/setup.py"
    [ "$(grep -cFx "$line" "$archive/setup.py")" = 1 ] || {
        echo "sdists.sh: $archive/setup.py is not as it was: the line 'if FORCE_CXX11_ABI:' is not there once" >&2
        exit 1
    }
done

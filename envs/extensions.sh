#!/bin/sh
# Compiles causal-conv1d and mamba-ssm inside the build of the CUDA image (envs/image.def), from their locked sdists,
# with the CUDA compiler of envs/toolkit.txt, which is uninstalled afterwards. Needs no GPU and no network. The sources
# stay in the current folder.
set -eu
pip install --quiet --require-hashes --requirement /mnt/envs/toolkit.txt
/mnt/envs/sdists.sh /opt/famba/lock.txt /mnt/wheels

# nvcc and torch's CUDA libraries share this folder; the linker looks for the two names that no wheel holds
CUDA_HOME=$(python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/nvidia/cu13
export CUDA_HOME
ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
ln -s lib "$CUDA_HOME/lib64"

# FORCE_BUILD: otherwise setup.py looks for a wheel on the network
export CAUSAL_CONV1D_FORCE_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE
for source in causal_conv1d-* mamba_ssm-*; do
    started=$(date +%s)
    pip install --quiet --no-build-isolation "./$source"
    echo "extensions.sh: $source compiled in $(($(date +%s) - started)) s"
done

rm "$CUDA_HOME/lib/libcudart.so" "$CUDA_HOME/lib64"
pip uninstall --quiet --yes --requirement /mnt/envs/toolkit.txt

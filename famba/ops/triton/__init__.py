"""The Triton kernels of CUDA devices, and how they are launched."""

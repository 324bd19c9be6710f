"""The Triton kernels of CUDA devices.

`backend`: all of them as one backend. Python sides: `scan` (the scan and the convolution), `tokens` (norm, matching,
merging); `launch`: whether they run here, strides, grids. Kernels: `scan_kernels`, `conv_kernels`, `gate_kernels`,
`norm_kernels`, `matching_kernels`, `merging_kernels`; `lanes`: what they share.
"""

"""The C++ kernels of the CPU.

`backend`: all of them as one backend. Python sides: `scan` (the scan and the convolution), `tokens` (norm, matching,
merging); `build`: compiles the sources on first use. Sources: scan_forward.cpp and scan_backward.cpp with scan.h,
conv.cpp, norm.cpp, matching.cpp, merging.cpp, exp_rate.cpp (the rate of exponentials, for the bound); simd.h: vectors;
tensors.h: how tensors lie in memory.
"""

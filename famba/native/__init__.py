"""The C++ kernels of the CPU: their sources, how they are built, and those of a block beside the scan's."""

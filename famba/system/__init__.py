"""What a training runs on.

`device`: the device and the facts that a row carries; `host`: the CPU and the GPUs, without torch; `container`: the
image; `built`: what an image was built from. `float32`: how matrices are multiplied. `cpu_time`: CPU time, with that of
the loading processes. `malloc`: freed memory stays with the process.
"""

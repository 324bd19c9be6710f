"""What a training costs on a device. What it costs by count is `famba.flops`.

`roofline`: the device's rates, and the bound that follows. `calibrate`: measured probes, from counts to seconds.
`plan`: a prediction for each cell (`famba plan`). `bench`: each part of a step beside its bound (`famba bench`).
"""

"""What an image must be, checked inside it by its %test: `python check.py LOCK`, from a folder that holds famba.

Every package of the lock is there at that version, all that famba imports can be imported, and each scan backend that
runs here agrees with the reference. On the CPU, and on a GPU where there is one (`apptainer test --nv`).
"""

import os
import re
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path

MODULES = ("PIL", "matplotlib", "numpy", "pandas", "pydantic", "scipy.stats", "seaborn", "sklearn.datasets", "yaml")
CUDA_MODULES = ("causal_conv1d_cuda", "selective_scan_cuda", "pynvml", "triton")  # need torch's libraries, no driver
TOLERANCE = 2e-5  # of the largest value, float32: as in tests/test_scan_cpu.py


def check_versions(lock: Path) -> int:
    pins = re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    wrong = [f"{name} {metadata.version(name)}, not {pin}" for name, pin in pins if metadata.version(name) != pin]
    if wrong or not pins:
        sys.exit(f"check: the image is not its lock: {', '.join(wrong) or 'nothing is locked'}")
    return len(pins)


def check_scan(device: str) -> list[str]:
    """Names of the backends that ran; values and gradients of each are the reference's."""
    torch, scan = import_module("torch"), import_module("famba.scan")
    generator = torch.Generator().manual_seed(0)
    batch, dim, state, length = 2, 48, 16, 65
    shapes = ((batch, dim, length), (batch, dim, length), (dim, state), *2 * [(batch, state, length)])
    values = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    values[1], values[2] = values[1].abs() / 4, -values[2].exp()  # steps are positive, and the states decay

    def run(backend: str) -> list:
        inputs = [value.clone().requires_grad_() for value in values]
        out = scan.selective_scan(*inputs, backend=backend)
        return [out, *torch.autograd.grad(out, inputs, out.detach().cos())]

    expected = run("reference")
    names = [name for name, runs, _ in scan.available(device) if runs]
    for name in names:
        for got, want in zip(run(name), expected, strict=True):
            error = ((got - want).abs().max() / want.abs().max()).item()
            if not error <= TOLERANCE:
                sys.exit(f"check: scan backend {name} on {device} is {error:.1e} from the reference")
    return names


def main(lock: Path) -> None:
    packages = check_versions(lock)
    torch = import_module("torch")
    for module in MODULES + (CUDA_MODULES if torch.version.cuda else ()):
        import_module(module)
    import_module("famba.augment.pil").timm_data()
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        print(f"check: {packages} packages as locked; on {device} these scans agree: {', '.join(check_scan(device))}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"FAMBA_CACHE": cache, "MPLCONFIGDIR": cache}
        main(Path(sys.argv[1]))

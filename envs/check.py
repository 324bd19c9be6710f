"""What an image must be, checked inside it by its %test: `python envs/check.py LOCK`, from a checkout of famba.

The image holds the packages of its lock, at those versions, and no others. All that famba imports can be imported. The
CUDA extensions hold machine code for each GPU that they are for. Each scan backend that runs here agrees with the
reference: on the CPU, and on a GPU where there is one (`apptainer test --nv`). With `--facts` it prints what
envs/record.py records, as JSON, instead.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path

MODULES = ("PIL", "matplotlib", "numpy", "pandas", "pydantic", "scipy.stats", "seaborn", "sklearn.datasets", "yaml")
CUDA_MODULES = ("causal_conv1d", "mamba_ssm", "pynvml", "triton")  # need torch's libraries, no driver
EXTENSIONS = {"causal_conv1d_cuda": "causal-conv1d", "selective_scan_cuda": "mamba-ssm"}  # module: package
CODE, PTX = ["sm_80", "sm_90"], ["sm_90"]  # A100 and Hopper; later GPUs compile the PTX (envs/sdists.sh)
ROOTS = ("/opt", "/usr", "/var")  # the image's own files: the rest is the host's, or small
TOLERANCE = 2e-5  # of the largest value, float32: as in tests/ops/test_cpp_scan.py


def check_versions(lock: Path, installed: dict[str, str]) -> int:
    """Number of packages; `installed` is version by name."""
    text = lock.read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", text, flags=re.MULTILINE))
    wrong = [f"{name} {installed.get(name)}, not {pin}" for name, pin in pins.items() if installed.get(name) != pin]
    wrong += [f"{name}, which is not locked" for name in sorted(installed.keys() - pins.keys() - {"pip"})]
    if wrong or not pins:
        sys.exit(f"check: the image is not its lock: {', '.join(wrong) or 'nothing is locked'}")
    return len(pins)


def installed() -> dict[str, str]:
    """Version by name, as a lock spells names."""
    return {re.sub(r"[-_.]+", "-", dist.name).lower(): dist.version for dist in metadata.distributions()}


def architectures(library: str | Path, kind: str) -> list[str]:
    """Those that the library holds machine code ("elf") or PTX ("ptx") for."""
    tool = Path(import_module("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, f"--list-{kind}", library], capture_output=True, text=True, check=False)
    return sorted(set(re.findall(r"\.(sm_\w+)\.", said.stdout)))


def check_code(library: str | Path) -> None:
    """The library holds code of the architectures that it is for, and of no others."""
    found = architectures(library, "elf"), architectures(library, "ptx")
    if found != (CODE, PTX):
        sys.exit(f"check: {library} holds machine code for {found[0]} and PTX of {found[1]}, not {CODE} and {PTX}")


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
    packages = check_versions(lock, installed())
    torch = import_module("torch")
    for module in MODULES + (CUDA_MODULES if torch.version.cuda else ()):
        import_module(module)
    import_module("famba.data.augment.timm").timm_data()
    if torch.version.cuda:
        for extension in EXTENSIONS:
            check_code(import_module(extension).__file__)
        print(f"check: {' and '.join(EXTENSIONS)} hold code for {' and '.join(CODE)}, and PTX of {PTX[0]}")
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        print(f"check: {packages} packages as locked; on {device} these scans agree: {', '.join(check_scan(device))}")


def facts(lock: Path) -> dict:
    """What the image is made of, and where its extensions run."""
    torch = import_module("torch")
    extensions = {}
    for name, package in EXTENSIONS.items() if torch.version.cuda else ():
        library = Path(import_module(name).__file__)
        extensions[name] = {
            "source": f"{package.replace('-', '_')}-{metadata.version(package)}",
            "library": {
                "bytes": library.stat().st_size,
                "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
            },
            "code": architectures(library, "elf"),
            "ptx": architectures(library, "ptx"),
        }
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    disk = subprocess.run(["du", "-sb", *ROOTS], capture_output=True, text=True, check=True).stdout
    return {
        "debian": Path("/etc/debian_version").read_text(encoding="utf-8").strip(),
        "python": platform.python_version(),
        "compiler": f"g++ {compiler}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": check_versions(lock, installed()),
        "bytes": sum(int(line.split()[0]) for line in disk.splitlines()),
        "extensions": extensions,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"FAMBA_CACHE": cache, "MPLCONFIGDIR": cache}
        if sys.argv[2:] == ["--facts"]:
            print(json.dumps(facts(Path(sys.argv[1]))))
        else:
            main(Path(sys.argv[1]))

"""The images' definitions and pins, what builds them, and what a run inside one is told and records."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from famba.errors import InputError
from famba.system import built, container
from famba.system.device import environment
from tests.helpers import ROOT

ENVS = ROOT / "envs"
IMAGES = ("cpu", "cuda")
SETUP_PY = """
cc_flag = []
if True:
    cc_flag.append("arch=compute_75,code=sm_75")

    if FORCE_CXX11_ABI:
        pass
"""  # as both sdists have it


def pins(lock: str) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", (ENVS / lock).read_text(), flags=re.MULTILINE))


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with nothing on it but what a script starts with."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("bash", "dirname", "grep", "id"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ENVS / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# pins


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_the_versions_of_the_projects_lock(image: str) -> None:
    project, own = pins("requirements.txt"), pins(f"famba-{image}.txt")
    assert {"numpy", "scikit-learn", "seaborn", "timm", "torchvision"} <= own.keys()
    different = {name for name in own.keys() & project.keys() if own[name] != project[name]}
    assert different <= {"triton"}  # torch's CUDA build asks for its own


def test_torch_and_the_extensions_are_those_that_the_project_names() -> None:
    torch_pin = re.search(r"^TORCH := torch==(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert torch_pin is not None
    assert pins("famba-cpu.txt")["torch"] == f"{torch_pin[1]}+cpu"
    assert pins("famba-cuda.txt")["torch"] == pins("torch.txt")["torch"] == torch_pin[1]
    assert pins("torch-cuda.txt").items() <= pins("famba-cuda.txt").items()
    hashes = {"torch": set(), "famba-cpu": set(), "famba-cuda": set()}
    for lock, found in hashes.items():
        pin = re.search(r"^torch==.*(\n +.*)*", (ENVS / f"{lock}.txt").read_text(), flags=re.MULTILINE)
        found |= set(re.findall("sha256:[0-9a-f]{64}", pin[0]))
    assert hashes["torch"] == hashes["famba-cpu"] | hashes["famba-cuda"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = dict(pin.split("==") for pin in extras["cuda"] if "==" in pin)
    assert named.keys() == {"mamba-ssm", "causal-conv1d"}
    assert named.items() <= pins("famba-cuda.txt").items()


LOCKS = ["requirements.txt", "torch.txt", "torch-cuda.txt", "famba-cpu.txt", "famba-cuda.txt", "toolkit.txt"]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash_and_none_says_where_from(lock: str) -> None:
    text = (ENVS / lock).read_text()
    pinned = re.split(r"\n(?=\S)", text.strip())
    assert len(pinned) == len(pins(lock))
    assert all("--hash=sha256:" in pin for pin in pinned)
    assert "://" not in text
    assert "--index" not in text


def test_the_toolkit_is_the_compiler_of_torchs_cuda_and_nothing_that_the_image_keeps() -> None:
    toolkit, image = pins("toolkit.txt"), pins("famba-cuda.txt")
    assert {"nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl", "wheel"} == toolkit.keys()
    assert not toolkit.keys() & image.keys()  # it is uninstalled, and nothing else may go with it
    cuda = {version.rpartition(".")[0] for name, version in toolkit.items() if name != "wheel"}
    assert cuda == {image["nvidia-cuda-nvrtc"].rpartition(".")[0]}  # CUDA's release, less the patch of each part


def test_the_definition_names_no_host_and_every_argument_of_it_is_set() -> None:
    definition, build = (ENVS / "image.def").read_text(), (ENVS / "build.sh").read_text()
    labels = definition.split("%labels\n")[1].split("%help")[0].split()
    assert labels[::4] == ["famba.definition.sha256", "famba.lock.sha256", "famba.revision"]
    assert set(re.findall(r"{{ (\w+) }}", definition)) == set(re.findall(r"--build-arg (\w+)=", build))
    assert "://" not in definition


# the record of a build


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_was_built_from_the_files_that_are_here(image: str) -> None:
    """A changed pin or definition needs a new build: docs/containers.md."""
    record = built.read(image, ROOT)
    changed = built.outdated(record, ROOT)
    assert not changed, f"{changed} changed: build {image} again, and record it"
    assert record.image == image
    assert record.contents.packages == len(pins(f"famba-{image}.txt"))
    assert record.contents.torch.partition("+")[0] == pins(f"famba-{image}.txt")["torch"].partition("+")[0]
    for extension in record.extensions.values():
        assert (extension.code, extension.ptx) == (["sm_80", "sm_90"], ["sm_90"])
    cuda = {"causal_conv1d_cuda", "selective_scan_cuda"}
    assert record.extensions.keys() == (cuda if image == "cuda" else set())


@pytest.mark.parametrize("image", IMAGES)
def test_a_record_names_every_file_that_the_build_takes(image: str) -> None:
    build = (ENVS / "build.sh").read_text()
    both = re.search(r"^DEFINITION=\((.*)\)$", build, flags=re.MULTILINE)
    more = re.search(r"^  DEFINITION\+=\((.*)\)$", build, flags=re.MULTILINE)
    assert both is not None
    assert more is not None
    assert built.DEFINITIONS[image] == (*both[1].split(), *(more[1].split() if image == "cuda" else ()))
    staged = {
        path
        for name in ("image.def", "extensions.sh", "sdists.sh")
        for path in re.findall(r"/mnt/(envs/[\w.-]+)", (ENVS / name).read_text())
    }
    assert staged <= set(built.DEFINITIONS["cuda"])


def test_any_change_of_what_an_image_is_made_from_makes_its_record_outdated(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    for path in (*built.DEFINITIONS["cuda"], "envs/famba-cuda.txt", "envs/famba-cuda.built.json"):
        shutil.copy(ROOT / path, tmp_path / path)
    record = built.read("cuda", tmp_path).model_copy(update={"inputs": built.inputs("cuda", tmp_path)})
    assert built.outdated(record, tmp_path) == []
    for path in (*built.DEFINITIONS["cuda"], "envs/famba-cuda.txt"):
        with open(tmp_path / path, "a") as file:
            file.write("# a pin more\n")
        assert built.outdated(record, tmp_path) == [path]
        record = record.model_copy(update={"inputs": built.inputs("cuda", tmp_path)})
    inputs = {**record.inputs, "envs/gone.sh": 64 * "0"}
    assert built.outdated(record.model_copy(update={"inputs": inputs}), tmp_path) == ["envs/gone.sh"]


def test_a_record_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    path = tmp_path / "envs" / "famba-cpu.built.json"
    with pytest.raises(
        InputError, match=r"^envs/famba-cpu\.built\.json: cannot .*No such file or directory.*; envs/record\.py"
    ):
        built.read("cpu", tmp_path)
    path.write_text((ENVS / "famba-cpu.built.json").read_text().replace('"bytes"', '"octets"', 1))
    with pytest.raises(
        InputError, match=r"^envs/famba-cpu\.built\.json: .*: file\.octets: unknown key; .*; envs/record\.py"
    ):
        built.read("cpu", tmp_path)


# building


def test_the_sdists_compile_for_two_architectures_and_later_ones(tmp_path: Path) -> None:
    assert run_sdists(tmp_path) == (0, "")
    for folder in ("causal_conv1d-1.0", "mamba_ssm-2.0.post1"):
        scope: dict[str, object] = {"FORCE_CXX11_ABI": False}
        exec((tmp_path / folder / "setup.py").read_text(), scope)
        flags = scope["cc_flag"]
        pairs = ("80,code=sm_80", "90,code=sm_90", "90,code=compute_90")
        assert flags == [f"-gencode=arch=compute_{pair}" for pair in pairs]


def test_an_sdist_of_another_hash_is_not_unpacked(tmp_path: Path) -> None:
    status, said = run_sdists(tmp_path, spoil="causal_conv1d-1.0.tar.gz")
    assert status != 0
    assert "causal_conv1d-1.0.tar.gz: FAILED" in said
    assert not (tmp_path / "causal_conv1d-1.0").exists()


def test_a_setup_py_that_has_changed_is_an_error(tmp_path: Path) -> None:
    status, said = run_sdists(tmp_path, setup_py="cc_flag = []\n")
    assert status == 1
    assert said.startswith("sdists.sh: causal_conv1d-1.0/setup.py is not as it was")


def run_sdists(folder: Path, setup_py: str = SETUP_PY, spoil: str = "") -> tuple[int, str]:
    """Run envs/sdists.sh in `folder` on two archives that it locks there."""
    lock = "another==3.0 \\\n    --hash=sha256:" + 64 * "0" + "\n"
    for name, version in (("causal-conv1d", "1.0"), ("mamba-ssm", "2.0.post1")):
        source = folder / f"{name.replace('-', '_')}-{version}"
        source.mkdir()
        (source / "setup.py").write_text(setup_py)
        archive = source.with_name(source.name + ".tar.gz")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(source, source.name)
        shutil.rmtree(source)
        lock += f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}\n"
    (folder / "lock.txt").write_text(lock)
    if spoil:
        (folder / spoil).write_bytes((folder / spoil).read_bytes() + b"\0")
    said = subprocess.run(
        [ENVS / "sdists.sh", "lock.txt", "."], cwd=folder, capture_output=True, text=True, check=False
    )
    return said.returncode, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], "name the image: cpu or cuda"), (["gpu"], "name the image"), (["cpu"], "Apptainer is missing")],
)
def test_the_build_says_what_it_lacks(tools: Path, arguments: list[str], expected: str) -> None:
    said = run_build(tools, *arguments)
    assert said.returncode == 2
    assert len(said.stderr.splitlines()) == 1
    assert said.stderr.startswith(f"envs/build.sh: {expected}")


@pytest.mark.parametrize("image", IMAGES)
def test_the_build_of_an_image_needs_debootstrap(tools: Path, image: str) -> None:
    (tools / "apptainer").symlink_to("/bin/true")
    (tools / "python3").symlink_to("/bin/true")
    said = run_build(tools, image)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "envs/build.sh: debootstrap is missing: apt-get install debootstrap\n"


def run_build(tools: Path, *arguments: str) -> subprocess.CompletedProcess:
    script = [str(tools / "bash"), str(ENVS / "build.sh"), *arguments]
    return subprocess.run(script, env={"PATH": str(tools)}, capture_output=True, text=True, check=False)


# an image's own check


def test_a_package_that_is_not_as_locked_fails_the_check(check: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("torch==2.13.0+cpu \\\n    --hash=sha256:0\nnumpy==0.1 \\\n    --hash=sha256:0\n")
    there = {"torch": "2.13.0+cpu", "numpy": "0.1", "pip": "23.0"}
    assert check.check_versions(lock, there) == 2
    with pytest.raises(SystemExit, match=r"not its lock: numpy 0\.2, not 0\.1$"):
        check.check_versions(lock, there | {"numpy": "0.2"})
    with pytest.raises(SystemExit, match=r"not its lock: nvidia-cuda-nvcc, which is not locked$"):
        check.check_versions(lock, there | {"nvidia-cuda-nvcc": "13.0.88"})
    lock.write_text("")
    with pytest.raises(SystemExit, match="nothing is locked"):
        check.check_versions(lock, {})


def test_names_are_spelled_as_a_lock_spells_them(check: ModuleType) -> None:
    found = check.installed()
    assert found["torch"] == torch.__version__
    assert {"scikit-learn", "typing-extensions"} <= found.keys()


def test_a_library_without_machine_code_fails_the_check(check: ModuleType) -> None:
    pytest.importorskip("triton")
    with pytest.raises(SystemExit, match=r"holds machine code for \[\] and PTX of \[\], not \['sm_80', 'sm_90'\]"):
        check.check_code(torch._C.__file__)


def test_a_scan_that_is_wrong_fails_the_check(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"chunked", "reference"} <= set(check.check_scan("cpu"))
    from famba.ops import chunked  # noqa: PLC0415

    right = chunked.scan
    monkeypatch.setattr(chunked, "scan", lambda *args: right(*args) * 1.001)
    with pytest.raises(SystemExit, match="scan backend chunked on cpu is"):
        check.check_scan("cpu")


# running in one


def test_a_missing_image_comes_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = built.read("cuda", ROOT)
    what = rf"makes it \({record.file.bytes / 2**20:,.0f} MiB; \d+ minutes of processor time\), docs/containers\.md"
    for folder in (tmp_path / "checkout" / "envs", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    shutil.copy(ENVS / "famba-cuda.built.json", tmp_path / "checkout" / "envs")
    monkeypatch.chdir(tmp_path / "checkout")
    with pytest.raises(InputError, match=rf"sif, and it is not there: envs/build\.sh cuda {what}"):
        container.require("envs/famba-cuda.sif")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"envs/famba-cuda\.sif, and it is not there: envs/build\.sh cuda makes it"):
        container.require("envs/famba-cuda.sif")
    with pytest.raises(InputError, match=r"my\.sif, and it is not there: `container` of the experiment names it"):
        container.require("my.sif")
    Path("my.sif").touch()
    container.require("my.sif")
    container.require("docker://example/image:1")  # Snakemake's to fetch


def test_what_is_told_to_apptainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "other.sif"
    work.mkdir()
    for image in (work / "own.sif", other):
        image.touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("APPTAINER_BIND", raising=False)
    own = container.variables(str(work / "own.sif"), work)
    assert {path.split("/.snakemake/container")[0] for path in own.values()} == {str(work)}
    assert set(own) == {f"APPTAINERENV_{name}" for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR")}

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("APPTAINER_BIND", "/scratch")
    told = container.variables(str(other), work)
    assert told["APPTAINERENV_CUDA_VISIBLE_DEVICES"] == "3"
    assert told["APPTAINER_BIND"] == f"/scratch,{other}:{other}:ro"
    (tmp_path / "images").mkdir()
    monkeypatch.setenv("FAMBA_DATA", str(tmp_path / "images"))
    told = container.variables(str(work / "own.sif"), work)
    assert told["APPTAINERENV_FAMBA_DATA"] == str(tmp_path / "images")
    assert told["APPTAINER_BIND"] == f"/scratch,{tmp_path / 'images'}:{tmp_path / 'images'}:ro"
    monkeypatch.delenv("FAMBA_DATA")
    images, link = tmp_path / "images", tmp_path / "link"  # an image folder, by a link from outside and from inside
    for place in (link, work / "flowers"):
        place.symlink_to(images)
        told = container.variables(str(work / "own.sif"), work, [place, work / "flowers.jsonl"])
        by_link = f",{images}:{link}:ro" if place == link else ""
        assert told["APPTAINER_BIND"] == f"/scratch{by_link},{images}:{images}:ro"


def test_in_a_container_only_the_project_can_be_written_and_nobody_is_root_who_was_not() -> None:
    """Apptainer itself, with the options that Snakemake gives it, on the host's own programs as an image."""
    apptainer = shutil.which("apptainer", path=f"{os.environ['PATH']}:/opt/apptainer/usr/bin")
    if apptainer is None or Path.home().is_relative_to("/tmp"):
        pytest.skip("no Apptainer, or no folder outside of /tmp")
    with tempfile.TemporaryDirectory(dir=Path.home()) as scratch:
        image, project = Path(scratch, "image"), Path(scratch, "project")
        (project / ".snakemake").mkdir(parents=True)
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "root", "home"):
            (image / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64"):
            (image / name).symlink_to(f"usr/{name}")
        arguments = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())["apptainer-args"].split()
        command = [apptainer, "exec", "--home", str(project), *arguments, "--bind", "/usr:/usr:ro", str(image)]
        wanted = "id -u; for f in /tmp/x /var/tmp/x ~/x /x /etc/x /usr/x /var/x /root/x; do touch $f && echo $f; done"
        env = os.environ | container.variables(str(image), project) | {"APPTAINER_DROP_CAPS": "CAP_SYS_RESOURCE"}
        said = subprocess.run(
            [*command, "bash", "-c", wanted], cwd=project, env=env, capture_output=True, text=True, check=False
        )
        assert said.stdout.split() == [str(os.getuid()), "/tmp/x", "/var/tmp/x", f"{project}/x"], said.stderr
        written = {str(path.relative_to(scratch)) for path in Path(scratch).rglob("x")}
        assert written == {f"project/{name}" for name in ("x", ".snakemake/tmp/x", ".snakemake/var_tmp/x")}


def test_a_row_names_the_image_and_its_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image, lock = tmp_path / "x.sif", tmp_path / "lock.txt"
    image.write_bytes(b"image")
    lock.write_bytes(b"lock")
    long_ago = 1_000_000_000
    os.utime(image, (long_ago, long_ago))
    monkeypatch.delenv("FAMBA_CONTAINER_SHA256", raising=False)
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    assert environment(torch.device("cpu"), 1).container_sha256 is None
    monkeypatch.setenv("SINGULARITY_CONTAINER", str(image))
    monkeypatch.setenv("FAMBA_LOCK", str(lock))
    made = environment(torch.device("cpu"), 1)
    assert made.container_sha256 == hashlib.sha256(b"image").hexdigest()
    assert made.lock_sha256 == hashlib.sha256(b"lock").hexdigest()


def test_an_image_that_was_replaced_meanwhile_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "x.sif"
    image.write_bytes(b"a newer image")  # written after this process was started
    monkeypatch.setenv("SINGULARITY_CONTAINER", str(image))
    monkeypatch.delenv("FAMBA_CONTAINER_SHA256", raising=False)
    assert container.own_sha256() is None
    monkeypatch.setenv("FAMBA_CONTAINER_SHA256", "ab" * 32)
    assert container.own_sha256() == "ab" * 32

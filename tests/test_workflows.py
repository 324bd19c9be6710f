"""What the GPU workflow relies on and cannot show without a GPU: its image runs the tests with three packages more."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions

import yaml

from tests.helpers import ROOT

JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "gpu.yml").read_text())["jobs"]
GPU = JOBS["kernels-and-benchmarks"]["steps"]
COLLECT = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"the image has no {name}")

missing = set(sys.argv.pop(1).split())
sys.meta_path.insert(0, Missing())
import pytest
sys.exit(pytest.main(["--collect-only", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def step(name: str) -> str:
    return next(step["run"] for step in GPU if step.get("name", "").startswith(name))


def pinned(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "envs" / lock).read_text(), flags=re.MULTILINE))


def test_pytest_comes_from_the_lock_with_its_hashes(tmp_path):
    (tmp_path / "envs").symlink_to(ROOT / "envs")
    extract = step("pytest, beside the image").splitlines()[0]
    subprocess.run(extract, shell=True, cwd=tmp_path, check=True)
    listed = (tmp_path / "pytest.txt").read_text()
    assert re.findall(r"^(\S+)==", listed, flags=re.MULTILINE) == ["iniconfig", "pluggy", "pytest"]
    assert listed.count("--hash=sha256:") >= 3
    assert "packaging" in pinned("famba-cuda.txt")  # pytest needs these, too, and the image has them
    assert "pygments" in pinned("famba-cuda.txt")


def test_every_install_of_packages_is_held_to_hashes_or_named_in_the_policy():
    files = [ROOT / "Makefile", *(ROOT / ".ci").glob("*"), *(ROOT / "envs").glob("*.sh"), ROOT / "envs/image.def"]
    files += (ROOT / ".github/workflows").glob("*.yml")
    lines = [line for path in files if path.is_file() for line in path.read_text().replace("\\\n", " ").splitlines()]
    installs = [line for line in lines if re.search(r"pip3? (install|download) ", line) and not line.startswith("#")]
    unhashed = [line for line in installs if "--require-hashes" not in line and "HASHED)" not in line]
    allowed = (
        "--editable .",  # the checkout itself
        '--no-build-isolation "./$source"',  # an sdist that sdists.sh has held to its hash
        "--dest .venv/torch",  # a choice, which is held to its hash in the next line
        '--dest "$SCRATCH"',  # lock.sh takes its hash
    )
    assert len(installs) >= 8
    assert [line for line in unhashed if not any(part in line for part in allowed)] == []


def test_actions_are_named_by_commit():
    text = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    used = re.findall(r"uses: (\S+)", text)
    assert [name for name in used if not re.search(r"@[0-9a-f]{40}$", name)] == []


def test_the_gpu_tests_need_no_more_than_the_image_and_pytest():
    there = pinned("famba-cuda.txt") | {"pytest", "pluggy", "iniconfig", "famba"}
    names = {module: {dist.lower().replace("_", "-") for dist in of} for module, of in packages_distributions().items()}
    missing = {module for module, of in names.items() if not of & there}
    assert {"hypothesis", "jsonschema", "snakemake"} <= missing
    options, files = re.fullmatch(r".* -m pytest (-m '.*?') \$\((grep .*)\)", step("every kernel").strip()).groups()
    found = subprocess.run(files, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tests = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    marked = {name for name, text in tests.items() if re.search(r"mark\.gpu|\b(EVERY|TRITON)\b", text)}
    assert set(found) == marked - {"tests/ops/test_dispatch.py", "tests/test_workflows.py"}  # which name them alone
    said = subprocess.run(
        [sys.executable, "-c", COLLECT, " ".join(missing), *shlex.split(options), *found],
        cwd=ROOT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout
    assert set(re.findall(r"^(\S+)::", said.stdout, flags=re.MULTILINE)) == set(found)


def test_a_schedule_builds_the_cuda_image_and_ci_does_not():
    workflows = {path.name: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    building = {name for name, text in workflows.items() if "envs/build.sh cuda" in text}
    assert building == {"containers.yml", "gpu.yml"}
    for name in building:
        triggers = yaml.safe_load(workflows[name])[True]  # YAML 1.1 reads `on` so
        assert triggers.keys() == {"workflow_dispatch", "schedule"}
    scripts = [path.read_text() for path in (ROOT / ".ci").iterdir() if path.is_file()]
    assert not any("build.sh cuda" in text for text in scripts)

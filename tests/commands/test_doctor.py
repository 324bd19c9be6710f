"""`famba doctor` on this machine, and on one where things are missing or broken."""

import subprocess
import sys
from pathlib import Path

import pytest

from famba.cli import main
from famba.commands import doctor
from famba.errors import InputError
from famba.system import host
from tests.helpers import ROOT

NVIDIA_SMI = """#!/bin/sh
case "$1" in
  -L) echo "GPU 0: NVIDIA H200 (UUID: GPU-0b5c)"; echo "GPU 1: NVIDIA H200 (UUID: GPU-1d7e)" ;;
  *) echo 570.86.15; echo 570.86.15 ;;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that is the only program there is; it answers as the real one of a machine with two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tool


def test_report_names_every_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--data", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for section in ("Machine", "Selective scan (float32)", "Software", "Data"):
        assert f"{section}\n" in printed
    for part in ("torch", "snakemake", "dvc", "apptainer", "chunked", "reference", "digits", "cifar100"):
        assert f"  {part} " in printed


def test_missing_data_come_with_how_to_get_them(tmp_path: Path) -> None:
    data = {finding.name: finding for finding in doctor.report(tmp_path)["Data"]}
    assert "famba data fetch cifar100" in (data["cifar100"].get or "")
    assert data["digits"].get is None
    assert data["digits"].what.startswith("verified: 1,437 + 360 images")


def test_every_backend_is_there_with_its_reason(tmp_path: Path) -> None:
    from famba.ops import BACKENDS  # noqa: PLC0415

    scans = doctor.report(tmp_path)["Selective scan (float32)"]
    assert [finding.name.strip() for finding in scans[1 : len(BACKENDS) + 1]] == list(BACKENDS)
    assert all(finding.what for finding in scans)


def test_gpus_and_driver_are_the_drivers_word(nvidia_smi: Path) -> None:
    assert host.nvidia_gpus() == ["NVIDIA H200", "NVIDIA H200"]
    assert host.nvidia_driver() == "570.86.15"
    host.require_gpu()


def test_one_gpu_is_asked_by_its_uuid(nvidia_smi: Path) -> None:
    nvidia_smi.write_text('#!/bin/sh\necho "$@"\n')
    asked = "--id=GPU-1d7e --query-compute-apps=pid --format=csv,noheader,nounits"
    assert host.nvidia_query("compute-apps=pid", "GPU-1d7e") == [asked]


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n"])
def test_no_tool_a_broken_driver_and_no_gpu_are_no_gpu(nvidia_smi: Path, script: str | None) -> None:
    if script is None:
        nvidia_smi.unlink()
    else:
        nvidia_smi.write_text(script)
    assert host.nvidia_gpus() == []
    with pytest.raises(InputError, match=r"no NVIDIA GPU here.*make demo"):
        host.require_gpu()
    assert main(["doctor", "--require", "cuda"]) == 2


def test_it_reports_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    """As in a half-finished set-up: a `torch` that raises stands first on the path."""
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is not there')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from famba.cli import main; sys.exit(main(['doctor']))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "cannot be imported (libtorch.so is not there)" in said.stdout
    assert "digits" in said.stdout

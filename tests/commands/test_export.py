"""`famba export`: a program that runs without famba."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import famba
from famba.cli import main
from famba.fusion import match
from famba.methods import Seen, draws
from famba.methods.interface import History
from famba.ops import reference, traced
from famba.ops.types import Scanned, ScanTensors
from tests.helpers.cells import MICRO
from tests.helpers.method_cases import METHOD_CASES, label, made, tokens_seen

TINY = {"embed_dim": 8, "depth": 2, "img_size": 12, "patch_size": 4}
PLAIN = """
import sys, torch
for name in sys.argv[1:]:
    program = torch.export.load(f"{name}.pt2").module()
    images, expected = torch.load(f"{name}.pt")
    for batch in (1, 5):
        torch.testing.assert_close(program(images[:batch]), expected[:batch], rtol=1e-4, atol=1e-5)
    print(name)
assert not any(name.startswith("famba") for name in sys.modules)
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An experiment and the weights of its model."""
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(MICRO | {"models": {"tiny": TINY}}))
    torch.manual_seed(0)
    torch.save(famba.VisionMamba(**TINY, num_classes=7).state_dict(), tmp_path / "weights.pt")
    return tmp_path


@pytest.mark.slow
def test_a_plain_python_file_runs_the_exported_program(files, capsys):
    schedule = famba.fusion.strategy("interleaved", 2, tokens=10)
    assert schedule[1] > 0
    tried = {"famba_v": "auto", "rmeeto": "chunked", "utr": "reference"}
    for method, scan in tried.items():
        words = ["--config", str(files / "e.yaml"), "--strategy", "interleaved", "--method", method, "--scan", scan]
        assert main(["export", str(files / "weights.pt"), *words, "--out", str(files / f"{method}.pt2")]) == 0
        said = f"{method}.pt2: tiny under interleaved-{method}, for 1 to 4096 images; tokens"
        assert said in capsys.readouterr().out
        model = famba.VisionMamba(**TINY, num_classes=7, fusion=schedule, method=method).eval()
        model.load_state_dict(torch.load(files / "weights.pt", weights_only=True))
        images = torch.randn(5, 3, 12, 12)
        with torch.no_grad():
            torch.save((images, model(images)), files / f"{method}.pt")
    plain = [sys.executable, "-W", "ignore", "-c", PLAIN, *tried]
    done = subprocess.run(plain, cwd=files, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(tried)


@pytest.mark.parametrize("case", METHOD_CASES, ids=map(label, METHOD_CASES))
def test_every_method_can_be_exported(case):
    method, seen = made(case), tokens_seen(9, torch.tensor([0, 4]), 0, torch.float32)
    keys = torch.tensor([3, 5])

    class Reducing(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, residual: torch.Tensor, scanned, history) -> tuple:
            streams = itertools.count()
            uniform = lambda: draws.uniform(keys, next(streams), 9)  # noqa: E731
            hidden, residual, reduction = method(
                Seen(hidden, residual, seen.cls, 3, Scanned(*scanned), uniform, History(*history))
            )
            return hidden, residual, reduction.kept

    tensors = (seen.hidden, seen.residual, tuple(seen.scanned), tuple(seen.history))
    with torch.no_grad():
        program = torch.export.export(Reducing(), tensors, strict=False).module()
        for found, expected in zip(program(*tensors), Reducing()(*tensors), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("length", [1, 2, 13, 16])
def test_the_scan_of_exported_programs_is_the_reference_s(length):
    generator = torch.Generator().manual_seed(length)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    streams = (some(2, 3, length, 5), some(2, 3, length, 5), -some(2, 5, 4).exp(), some(2, 3, length, 4))
    for gate, directions in ((some(3, length, 5), 2), (None, 1)):
        u, delta, A, B = (x[:directions] for x in streams)
        inputs = ScanTensors(u, delta, A, B, B + 1, some(directions, 5), gate, some(directions, 5))
        torch.testing.assert_close(traced.scan(inputs, True), reference.scan(inputs, True), rtol=1e-10, atol=1e-12)


def test_an_exported_matching_still_checks_the_protected_token():
    class Matching(torch.nn.Module):
        def forward(self, x: torch.Tensor, cls: torch.Tensor) -> torch.Tensor:
            return match(x, 2, cls).kept

    x = torch.randn(2, 9, 4)
    program = torch.export.export(Matching(), (x, torch.tensor([3, 4])), strict=False).module()
    assert torch.equal(program(x, torch.tensor([0, 8])), match(x, 2, torch.tensor([0, 8])).kept)
    with pytest.raises(RuntimeError, match="protected tokens lie outside sequences of 9"):
        program(x, torch.tensor([3, 9]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "model.onnx"], "--out model.onnx: name it .safetensors, for the weights, or .pt2, for a program"),
        (["--out", "model.pt2", "--scan", "cpu"], "--scan cpu: only chunked and reference can be exported"),
        (["--out", "model.pt2", "--strategy", "uper"], "unknown strategy 'uper'"),
    ],
)
def test_bad_input_is_one_line(files, words, message, capsys):
    assert main(["export", str(files / "weights.pt"), "--config", str(files / "e.yaml"), *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1

"""`famba evaluate`: any checkpoint under any strategy and method, without training."""

import csv
import json
import re
from argparse import Namespace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

import famba
from famba.cli import main
from famba.commands.chosen import Chosen, settings_of
from famba.config.methods import code_of
from famba.config.settings import Fusion
from famba.errors import InputError
from famba.results.row import read_row
from famba.results.statistics import holm
from famba.training.evaluate import Forward
from famba.training.train import Training
from tests.helpers.cells import MICRO, cell

QUICK = ("--batch", "2", "--rounds", "1", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that was trained under `upper`."""
    folder = tmp_path_factory.mktemp("trained")
    Training(cell(epochs=2), folder, Path("data")).run()
    return folder


def evaluated(out: Path, *arguments: object) -> list[dict[str, str]]:
    assert main(["evaluate", *map(str, arguments), *QUICK, "--out", str(out)]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def predicted(out: Path, line: dict[str, str]) -> np.ndarray:
    with np.load(out.parent / line["predictions"]) as file:
        return file["top5"]


def test_another_size_has_its_own_schedules_and_refuses_those_that_do_not_fit(trained, tmp_path, capsys):
    """What would be capped is another schedule; what is derived is derived for the tokens that there are."""
    own = {"mine": {"from": 1, "r": 3}, "alike": {"like": "upper"}}
    config = tmp_path / "e.yaml"
    config.write_text(yaml.safe_dump(MICRO | {"strategies": ["mine", "alike"], "schedules": own}))
    here = [trained / "weights.pt", "--config", config, "--img-size", "8", "--limit", "4"]
    alike, upper = evaluated(tmp_path / "out.csv", *here, "--strategies", "alike,upper")
    assert alike["tokens"] == upper["tokens"]
    words = ["evaluate", *map(str, here), *QUICK, "--strategies", "mine", "--out", str(tmp_path / "mine.csv")]
    assert main(words) == 2
    assert "--strategies: mine removes 3 tokens in layer 1, where 2 of vim_micro can go" in capsys.readouterr().err


def test_a_trained_model_under_its_own_strategy_does_what_its_row_says(trained, tmp_path):
    row, out = read_row(trained / "row.json"), tmp_path / "out.csv"
    (line,) = evaluated(out, trained / "row.json", "--strategies", "upper")
    assert float(line["top1"]) == pytest.approx(row.metrics.last.top1, rel=1e-5)
    assert float(line["top5"]) == pytest.approx(row.metrics.last.top5, rel=1e-5)
    with np.load(trained / "predictions.npz") as file:
        assert (predicted(out, line) == file["top5"]).all()
    assert tuple(map(int, line["tokens"].split())) == row.tokens.measured
    assert int(line["forward_flops"]) == row.cost.forward_flops
    assert (line["test_digest"], line["images"], line["dataset"]) == (row.data.test_digest, "360", "digits")
    assert (line["model"], line["precision"], line["threads"], line["head"]) == ("vim_micro", "fp32", "1", "stored")
    assert all(float(line[key]) > 0 for key in ("images_per_s", "images_per_s_2", "latency_ms", "memory"))
    (average,) = evaluated(out, trained / "weights.pt", "--strategies", "upper", "--weights", "ema")
    assert float(average["top1"]) == pytest.approx(row.metrics.ema_last.top1, rel=1e-5)


def test_a_sweep_has_a_line_for_each_setting_and_says_what_it_leaves_out(trained, tmp_path, capsys):
    out = tmp_path / "out.csv"
    methods = "famba_v,rmeeto:prune=true,famba_v:placement=after"
    lines = evaluated(
        out, trained / "weights.pt", "--strategies", "baseline,upper,all", "--method", methods, "--limit", 50,
        "--set", "size_weighted=true", "--against", "none",
    )  # fmt: skip
    assert [line["against"] for line in lines] == ["", *["baseline-none"] * 5]
    assert [(line["strategy"], line["method"], line["settings"]) for line in lines] == [
        ("baseline", "none", ""),
        ("upper", "famba_v", "size_weighted=True"),
        ("upper", "rmeeto", "prune=True"),
        ("upper", "famba_v", "placement=after size_weighted=True"),
        ("all", "famba_v", "size_weighted=True"),
        ("all", "famba_v", "placement=after size_weighted=True"),
    ]
    # `upper` of 4 layers takes 14 of 16 patches in the last three, where no more than half can go
    assert [line["tokens"] for line in lines[:4]] == [
        "17 17 17 17 17", "17 13 8 5 5", "17 13 8 5 5", "17 17 13 8 5",
    ]  # fmt: skip
    assert len({line["predictions"] for line in lines}) == len(lines)
    assert all(len(predicted(out, line)) == int(line["images"]) == 50 for line in lines)
    said = capsys.readouterr()
    assert "left out: all-rmeeto-prune=True: method rmeeto acts on what the mixer before has put out" in said.err
    assert "One of the 50 test images is 2 points. The choice of images alone leaves a top-1 uncertain by ±" in said.out
    assert said.out.endswith(f"{out}: 6 settings, 50 images of digits\n")


def test_a_line_says_which_code_a_method_of_ones_own_was(trained, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from famba.methods.random_controls import RandomPrune\n\n\nclass Mine(RandomPrune):\n    pass\n")
    given = ("--strategies", "baseline,upper", "--method", f"famba_v,{file}:Mine", "--limit", 10)
    lines = evaluated(tmp_path / "out.csv", trained / "weights.pt", *given)
    assert [line["code"] for line in lines] == ["", "", f"sha256 {sha256(file.read_bytes()).hexdigest()}"]


def test_settings_are_compared_on_the_same_images(trained, tmp_path, capsys):
    """From the predictions beside the file: McNemar, Holm over all."""
    out = tmp_path / "out.csv"
    given = (trained / "weights.pt", "--strategies", "upper", "--method", "random_prune,famba_v,hsa")
    given += ("--set", "score=code", "--against")  # hsa's own
    reference, *others = evaluated(out, *given, "random_prune")
    assert [reference[name] for name in ("against", "difference", "p", "p_holm")] == [""] * 4
    theirs, p = right(out, reference), []
    for line in others:
        ours = right(out, line)
        b, c = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        assert (line["against"], line["only_strategy"], line["only_against"]) == ("upper-random_prune", str(b), str(c))
        assert float(line["difference"]) == pytest.approx(100 * (ours.mean() - theirs.mean()), abs=1e-3)
        p.append(stats.binomtest(b, b + c).pvalue)
        assert float(line["p"]) == pytest.approx(p[-1], rel=1e-4)
    assert [float(line["p_holm"]) for line in others] == pytest.approx(holm(np.array(p)), rel=1e-4)
    assert "difference (points)  p (Holm)" in capsys.readouterr().out
    for other in ("utr", "none"):
        assert main(["evaluate", *map(str, given), other, *QUICK, "--out", str(out)]) == 2
        assert f"--against {other}: nothing to compare" in capsys.readouterr().err


def right(out: Path, line: dict[str, str]) -> np.ndarray:
    with np.load(out.parent / line["predictions"]) as file:
        return file["top5"][:, 0] == file["labels"]


def test_a_limit_takes_images_evenly_from_a_set_that_may_be_sorted_by_class(trained, tmp_path):
    whole = evaluated(tmp_path / "whole.csv", trained / "weights.pt", "--strategies", "upper")
    first = evaluated(tmp_path / "some.csv", trained / "weights.pt", "--strategies", "upper", "--limit", 40)
    some, every = predicted(tmp_path / "some.csv", first[0]), predicted(tmp_path / "whole.csv", whole[0])
    assert (some == every[::9]).all()  # 40 of 360
    with np.load(tmp_path / first[0]["predictions"]) as file, np.load(trained / "predictions.npz") as known:
        assert (file["places"] == np.arange(0, 360, 9)).all()
        assert (file["labels"] == known["labels"][::9]).all()
    assert whole[0]["checkpoint_sha256"] == first[0]["checkpoint_sha256"]


def test_a_model_and_a_strategy_of_an_experiment_with_a_method_of_its_own(trained, tmp_path):
    own = {"mine": {"layers": [1, 3], "r": 3, "method": "random_prune"}}
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(MICRO | {"schedules": own, "strategies": ["baseline", "mine"]}))
    state = torch.load(trained / "weights.pt", weights_only=True)["model"]
    torch.save(state, tmp_path / "bare.pt")
    lines = evaluated(
        tmp_path / "out.csv", tmp_path / "bare.pt", "--config", path, "--strategies", "mine,upper", "--limit", 20
    )
    assert [(line["strategy"], line["method"], line["tokens"]) for line in lines] == [
        ("mine", "random_prune", "17 14 14 11 11"),
        ("upper", "famba_v", "17 13 8 5 5"),
    ]


def test_an_official_file_of_a_thousand_classes_is_measured_and_its_new_head_is_not_judged(tmp_path, capsys):
    torch.manual_seed(0)
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(MICRO))
    official = famba.VisionMamba(16, 4, num_classes=1000, img_size=24, patch_size=4)
    state = {f"module.{name}": value for name, value in official.state_dict().items()}
    args = Namespace(model="vim_tiny_patch16_224_with_midclstoken_div2")
    torch.save({"model": state, "args": args}, tmp_path / "vim.pth")
    arguments = ("--config", path, "--strategies", "upper", "--limit", 20)
    (line,) = evaluated(tmp_path / "out.csv", tmp_path / "vim.pth", *arguments)
    assert (line["head"], line["top1"], line["top5"], line["predictions"]) == ("new", "", "", "")
    assert float(line["images_per_s"]) > 0
    said = capsys.readouterr().out
    assert "vim.pth: head of 1000 classes: dropped; the model's, of 10, is new" in said
    assert "vim.pth: pos_embed: 6 x 6 patches resized to 4 x 4" in said
    (line,) = evaluated(tmp_path / "large.csv", tmp_path / "vim.pth", *arguments, "--img-size", 24)
    assert line["tokens"].startswith("37 ")
    assert "pos_embed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.pt"], "gone.pt: cannot read the weights"),
        (["{folder}"], "a folder; name a file in it, such as /"),
        (["{weights}", "--strategies", "uper"], "--strategies: unknown strategy 'uper'; did you mean 'upper'?"),
        (["{weights}", "--method", "utrr"], "unknown method 'utrr'"),
        (["{weights}", "--method", "utr:p=1"], "method utr: unknown setting 'p'"),
        (["{weights}", "--method", "hsa,hsa"], "hsa: two settings of this name"),
        (["{weights}", "--set", "q=0.2"], "--set q: none of these methods has this setting"),
        (["{weights}", "--set", "q"], "--set q: write KEY=VALUE"),
        (["{weights}", "--set", "order=sideways"], "method famba_v: order"),
        (["{weights}", "--model", "vim_tinny"], "--model: unknown model 'vim_tinny'"),
        (["{weights}", "--model", "vim_tiny"], "weights of 4 layers, and the model has 24"),
        (["{weights}", "--dataset", "digit"], "unknown data set 'digit'; did you mean 'digits'?"),
        (["{weights}", "--strategies", "upper", "--budget", "paper"], "--budget proportional scales it"),
        (["{weights}", "--img-size", "18"], "img_size 18 is not a multiple of patch_size 4"),
        (["{bare}"], "does not say which model it is of"),
        (["{weights}", "--strategies", "all", "--method", "rmeeto"], "all-rmeeto: method rmeeto acts on"),
    ],
)
def test_bad_input_is_one_line(trained, tmp_path, capsys, arguments, message):
    torch.save(torch.load(trained / "weights.pt", weights_only=True)["model"], tmp_path / "bare.pt")
    places = {"weights": trained / "weights.pt", "bare": tmp_path / "bare.pt", "folder": trained}
    words = ["evaluate", *(word.format(**places) for word in arguments), "--out", str(tmp_path / "out.csv")]
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_a_changed_file_is_not_taken_for_the_method_of_the_training(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from famba.methods.random_controls import RandomPrune\n\n\nclass Mine(RandomPrune):\n    pass\n")
    method, of = f"{file}:Mine", cell()
    fusion = Fusion(method=method, code=code_of(method))
    trained = Chosen("mine", of.architecture, of.recipe, "digits", Fusion(), {"mine": ((0, 0, 5, 3), fusion)})
    (setting,) = settings_of(trained, ["mine"], [], [])
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(InputError, match=r"the training was one of sha256 .*, and here is sha256 "):
        settings_of(trained, ["mine"], [], [])
    assert settings_of(trained, ["mine"], [method], []) == [setting]


def test_logits_that_are_not_finite_fail(trained, tmp_path, capsys):
    state = torch.load(trained / "weights.pt", weights_only=True)
    state["model"]["norm_f.weight"].fill_(3e38)
    torch.save(state, tmp_path / "weights.pt")
    out = str(tmp_path / "out.csv")
    assert main(["evaluate", str(tmp_path / "weights.pt"), "--strategies", "baseline", "--out", out]) == 1
    assert "logits are not finite; first not finite: output of " in capsys.readouterr().err


def test_safetensors_of_an_export_give_the_same_predictions(trained, tmp_path):
    exported = tmp_path / "model.safetensors"
    assert main(["export", str(trained / "row.json"), "--out", str(exported)]) == 0
    before = evaluated(tmp_path / "before.csv", trained / "row.json", "--strategies", "upper")
    after = evaluated(tmp_path / "after.csv", exported, "--strategies", "upper")
    assert (predicted(tmp_path / "before.csv", before[0]) == predicted(tmp_path / "after.csv", after[0])).all()
    from safetensors import safe_open  # noqa: PLC0415

    with safe_open(exported, framework="pt") as file:
        told = file.metadata()
    assert told["model"] == "vim_micro"
    assert json.loads(told["architecture"])["embed_dim"] == 16


def test_a_batch_that_does_not_fit_is_one_line_with_one_that_does(trained, tmp_path, capsys):
    arguments = (
        *("evaluate", str(trained / "row.json"), "--strategies", "upper", "--limit", "20", "--threads", "1"),
        *("--device", "cpu", "--rounds", "1", "--out", str(tmp_path / "o.csv"), "--batch"),
    )
    for batch in (10**9, 10**16, 10**18):
        assert main([*arguments, f"1,{batch}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("famba: error: vim_micro: does not fit into memory")
        found = re.search(rf"--batch {batch} needs about [\d,.]+ GiB of the [\d.]+ GiB here, .*; (\d+) needs", line)
        assert 1 <= int(found[1]) < batch
    assert not list(tmp_path.glob("*.csv"))
    with pytest.raises(SystemExit):
        main([*arguments, f"{10**30}"])
    assert "--batch: invalid list of positive integers" in capsys.readouterr().err


def test_memory_that_runs_out_in_an_evaluation_or_elsewhere_is_one_line(trained, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a capacity of 8 GiB")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**33))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    given = [str(trained / "row.json"), "--img-size", "16"]
    measured = ["--threads", "1", "--device", "cpu", "--out", str(tmp_path / "o.csv")]
    monkeypatch.setattr(Forward, "__call__", full)
    for command in (["evaluate", *given, "--strategies", "upper"], ["search", *given, "--images", "20"]):
        assert main([*command, *measured]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "vim_micro: does not fit into memory (it asked for 1.50 GiB): recipe.eval_batch 256 needs" in line
    monkeypatch.setattr(famba.VisionMamba, "forward", full)
    assert main(["export", *given, "--out", str(tmp_path / "m.pt2")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    there = "1.00 GiB are here; take a larger device, or a smaller batch or model"
    assert line == f"famba: error: famba export: does not fit into memory (it asked for 1.50 GiB): {there}"

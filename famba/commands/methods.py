"""`famba methods` and `famba methods test`: what there is, and whether a method keeps its contract."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from famba.commands.options import setting
from famba.config.methods import Placement, installed
from famba.errors import CheckFailed, InputError
from famba.methods import names
from famba.text import count, one_line

if TYPE_CHECKING:
    import torch

    from famba.methods.interface import Method
    from famba.model import VisionMamba

_DESCRIPTION = """\
The methods of token reduction: their place in a block, their first sentence, their settings.

An experiment names one as `method: NAME`, or `method: FILE.py:CLASS` for a class of your own (docs/methods.md).
"""


_OK = "  ok  "
_PLACES = {
    "input": "on a block's input",
    "before": "before the mixer",
    "inside": "inside the mixer, per direction",
    "after": "after the mixer",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba methods`; without a command it lists them."""
    parser.formatter_class, parser.description = argparse.RawDescriptionHelpFormatter, _DESCRIPTION
    parser.set_defaults(run=_list)
    commands = parser.add_subparsers(metavar="COMMAND")
    text = "check that a method keeps its contract, without training: it runs on synthetic tokens and in a small model"
    command = commands.add_parser("test", help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("method", metavar="NAME | FILE.py:CLASS")
    command.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the method, each value as in an experiment file: --set q=0.25 prune=true",
    )
    command.add_argument("--placement", choices=list(_PLACES), help="where it acts in a block [the method's own place]")
    command.set_defaults(run=_test)


def main(args: argparse.Namespace) -> None:
    """Run one of its commands."""
    args.run(args)


def _list(_: argparse.Namespace) -> None:
    known = [*names.METHODS, *installed()]
    for name in known:
        try:
            cls = names.method_class(name)
        except InputError as error:
            print(f"{name:<14}cannot be used: {error}")
            continue
        settings = names.settings_of(cls).values()
        given = ", ".join(str(one.replace(annotation=one.empty)) for one in settings) or "no settings"
        print(f"{name:<14}{cls.placement:<8}{_sentence(cls)} [{given}]")


def _sentence(cls: type[Method]) -> str:
    paragraph = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return one_line(re.split(r"(?<=\.) (?=[A-Z])", paragraph, maxsplit=1)[0])


def _test(args: argparse.Namespace) -> None:
    chosen = Chosen(args.method, dict(map(setting, args.set)), args.placement)
    given = ", ".join(f"{key}={value!r}" for key, value in chosen.settings.items()) or "default settings"
    print(f"{chosen.name}: acts {_PLACES[chosen.build().placement]}; {given}")
    passed = 0
    for line in contract(chosen):
        print(line, flush=True)
        passed += line.startswith(_OK)
    print(f"{chosen.name} keeps its contract: {count(passed, 'check')}")


@dataclass(frozen=True)
class Chosen:
    """A method by name, its settings, and where it is to act."""

    name: str
    settings: Mapping[str, Any]
    placement: Placement | None = None

    def build(self) -> Method:
        """A new instance."""
        return names.build(self.name, self.settings, self.placement)

    def model(self, cls_position: str) -> VisionMamba:
        """A Vision Mamba of four layers, of which three reduce 65 tokens."""
        from famba.model import VisionMamba  # noqa: PLC0415

        return VisionMamba(
            *(32, 4, 10, 32, 4),
            cls_position=cls_position,
            fusion=(0, 9, 30, 5),
            method=self.name,
            settings=self.settings,
            placement=self.placement,
        )


def contract(chosen: Chosen) -> Iterator[str]:
    """Every check on every device and in both precisions, a line for each that has passed.

    Raises CheckFailed for the first that has not.
    """
    import torch  # noqa: PLC0415

    from famba.methods.contract import check  # noqa: PLC0415

    for device in map(torch.device, ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        for dtype in (torch.float32, torch.bfloat16):
            where = f"{device}, {str(dtype).removeprefix('torch.')}"
            try:
                for what, on in chain(check(chosen.build(), device, dtype), _in_models(chosen, device, dtype)):
                    yield f"{_OK}{where:<14}  {what:<12}  {on}"
            except CheckFailed as error:
                raise CheckFailed(f"method {chosen.name} breaks its contract ({where}): {error}") from None
    if not torch.cuda.is_available():
        yield "  --  no CUDA device here: not tested on one"


def _in_models(chosen: Chosen, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, str]]:
    """Tokens per layer, the rest unchanged, a gradient of every parameter: with both places of the class token."""
    import torch  # noqa: PLC0415

    from famba.training import checks  # noqa: PLC0415

    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
    for position in ["head"] if chosen.build().placement == "inside" else ["head", "middle"]:
        place = f"class token {'first' if position == 'head' else 'in the middle'}"
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = chosen.model(position).to(device)
            with autocast():
                tokens = checks.checked_tokens(model, device)
                checks.check_reduction(model, device)
                logits = model(checks.random_images(model, 3, device))
            logits.float().square().sum().backward()
        except CheckFailed as error:
            raise CheckFailed(f"model: {place}: {error}") from None
        except Exception as error:
            raise CheckFailed(f"model: {place}: {type(error).__name__}: {error}") from error
        for name, parameter in model.named_parameters():
            if parameter.grad is None or not parameter.grad.isfinite().all():
                how = "missing" if parameter.grad is None else "not finite"
                raise CheckFailed(f"model: {place}: the gradient of {name} is {how}")
        yield "model", f"{tokens} tokens per layer, {place}"

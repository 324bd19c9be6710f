"""`famba export`: a checkpoint under a strategy, as safetensors or as a program of torch.export."""

import argparse
import io
from pathlib import Path

import torch
from torch.export import Dim

from famba.commands import chosen
from famba.commands.chosen import Chosen
from famba.errors import CheckFailed, InputError
from famba.files import atomic_file
from famba.model import VisionMamba
from famba.training import checks, weights

_BACKENDS = ("auto", "chunked", "reference")  # kernels are no operators that a program could hold
_LARGEST_BATCH = 4096
_TOLERANCE = 1e-3  # of logits, relative: the kernels and the program's scan add in other orders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`famba export`."""
    parser.description = (
        "Write a checkpoint as model.safetensors, the weights alone under Vim's names, or as model.pt2, a program of "
        "torch.export that runs where there is torch and no famba: (B, 3, S, S) images to (B, classes) logits. "
        "Example: famba export results/smoke/cells/vim_tiny_mini-baseline-s0/row.json --strategy upper --out model.pt2"
    )
    chosen.add_arguments(parser)
    parser.add_argument("--strategy", default="baseline", metavar="NAME", help="[baseline]")
    parser.add_argument("--method", metavar="M", help="see famba evaluate [the training's]")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the suffix sets the format: .safetensors or .pt2"
    )


def main(args: argparse.Namespace) -> None:
    if args.out.suffix not in (".safetensors", ".pt2"):
        raise InputError(f"--out {args.out}: name it .safetensors, for the weights, or .pt2, for a program")
    if args.scan not in _BACKENDS:
        raise InputError(f"--scan {args.scan}: only {' and '.join(_BACKENDS[1:])} can be exported; leave it out")
    stored = weights.read(args.checkpoint, args.weights)
    head = stored.weights.get("head.weight")
    if head is None or not head.ndim:
        raise InputError(f"{stored.path}: has no classifier head, so there is no output to export")
    model = chosen.model_of(args, stored)
    (setting,) = chosen.settings_of(model, [args.strategy], [args.method] if args.method else [], args.set)
    network = setting.build(model.architecture, len(head), "auto")
    for note in weights.fit(stored, network, args.stored_cls_position).notes:
        print(f"{stored.path}: {note}")
    if network.varies and args.out.suffix == ".pt2":
        raise InputError(f"--strategy {args.strategy}: has a threshold, so its token counts are not fixed")
    network.eval()
    tokens = checks.checked_tokens(network, torch.device("cpu"))
    if args.out.suffix == ".safetensors":
        _write_weights(network, model, stored, args.out)
        print(f"{args.out}: the weights of {model.name}, which hold no strategy")
        return
    program = _program(network, args.scan)
    with atomic_file(args.out, binary=True) as file:
        file.write(program)
    print(
        f"{args.out}: {model.name} under {setting.name}, for 1 to {_LARGEST_BATCH} images; "
        f"tokens of each layer, then the last: {' '.join(map(str, tokens))}"
    )


def _write_weights(network: VisionMamba, model: Chosen, stored: weights.Stored, path: Path) -> None:
    """The weights; the header says of which model, and of which training where that is known."""
    told = {"format": "pt", "model": model.name, "architecture": model.architecture.model_dump_json()}
    if stored.cell is not None:
        cell = stored.cell.model_copy(update={"architecture": model.architecture, "recipe": model.recipe})
        told["cell"] = cell.model_dump_json()
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = weights.safetensors().torch.save(state, metadata=told)
    with atomic_file(path, binary=True) as file:
        file.write(content)


@torch.no_grad()  # else torch.export makes programs of the regions of no_grad within, and cannot load all of them
def _program(network: VisionMamba, scan: str) -> bytes:
    """A saved program for any batch size. Raises CheckFailed if, loaded again, its logits are not the model's."""
    network.requires_grad_(False)
    images = checks.random_images(network, 3, torch.device("cpu"))
    expected = network(images)
    for block in network.blocks:
        block.mixer.backend = scan
    # of two images: torch.export takes a batch of one for a constant
    program = torch.export.export(
        network, (images[:2],), dynamic_shapes={"images": {0: Dim("batch", min=1, max=_LARGEST_BATCH)}}, strict=False
    )
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    found = torch.export.load(saved).module()(images)
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    if not difference <= _TOLERANCE:
        raise CheckFailed(f"the exported program's logits differ from the model's by {difference:.2g} of the largest")
    return saved.getvalue()

"""Ways to spoil a valid file, all drawn from a seeded generator."""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from famba import files

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**31, 2**40, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-320, 1e30, 1e308, float("nan"),
    float("inf"), "", ".", "..", "/dev/zero", "x", "x" * 300, "x" * 5000, "a\nb", "\x1b[31mred", "\u202egnp",
    "1:30", "010", "1_000", "FILE.py:Class", "/dev/zero.py:C", "..py:C", [], {}, [[["x"]]], [{"a": 1}], {"a": [1]},
    list(range(3000)),
]  # fmt: skip
WORDS = [
    b"1:30", b"0o17", b"010", b"1_000", b"1e400", b"!!int x", b"!!python/name:os.system", b"&a [*a]", b"*a", b"<<: *a",
    b"? [a]", b"[" * 3000, b"{a: " * 3000, b"9" * 20_000, b'"\\0"', b"\t", b"---\n", b"%YAML 1.1\n", b"\xff\xfe", b"\0",
    b"~", b"- ", b": ", b"# ", b"|\n", b"2026-13-45",
]  # fmt: skip


def of_bytes(draw: random.Random, content: bytes) -> bytes:
    """A bit flipped, a part cut, doubled, moved or overwritten."""
    if not content:
        return content
    a, b = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    b = min(b, a + draw.choice((1, 8, 200, len(content))))
    at = draw.randrange(len(content) * 8)
    flipped = bytes([content[at // 8] ^ 1 << at % 8])
    return draw.choice(
        (
            content[: at // 8] + flipped + content[at // 8 + 1 :],
            content[:a] + content[b:],
            content[:b] + content[a:],
            content[:a] + draw.randbytes(b - a) + content[b:],
            content[:a] + draw.choice((b"\xff", b"\0", b"\x7f")) * (b - a) + content[b:],
            content[:a],
        )
    )


def of_text(draw: random.Random, content: bytes) -> bytes:
    """Words and lines exchanged, doubled or in places where they are not expected."""
    for _ in range(draw.randint(1, 3)):
        lines = content.split(b"\n")
        at, other = (draw.randrange(len(lines)) for _ in range(2))
        match draw.randrange(5):
            case 0:
                lines.insert(other, lines[at])
            case 1:
                lines[at], lines[other] = lines[other], lines[at]
            case 2:
                lines[at] = lines[at] + draw.choice(WORDS)
            case 3:
                head, colon, _ = lines[at].partition(b":")
                lines[at] = head + colon + b" " + draw.choice(WORDS)
            case _:
                lines[at] = of_bytes(draw, lines[at])
        content = b"\n".join(lines)
    return content


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield (*at, key)
        yield from places(part, (*at, key))


def of_tree(draw: random.Random, tree: Any, values: list[Any]) -> Any:
    """A copy with one to three of its values of another kind, gone, doubled, or under another key."""
    changed = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        if not (there := list(places(changed))):
            return draw.choice(values)
        *way, last = draw.choice(there)
        inside = changed
        for key in way:
            inside = inside[key]
        match draw.randrange(8):
            case 0:
                del inside[last]
            case 1 if isinstance(inside, dict):
                inside[draw.choice(("x", "", "x" * 300, "a\nb", "\x1b[1m", last))] = inside.pop(last)
            case 1 | 2 if isinstance(inside, list):
                inside.append(inside[last])
            case _:
                inside[last] = copy.deepcopy(draw.choice(values))
    return changed


def of_json(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.3:
        return of_text(draw, content)
    text = json.dumps(of_tree(draw, json.loads(content), VALUES))
    if draw.random() < 0.1:  # far deeper than any
        text = text.replace("null", "[" * 100_000 + "]" * 100_000, 1)
    return text.encode("utf-8", "surrogatepass")


def of_yaml(draw: random.Random, content: bytes) -> bytes:
    if draw.random() < 0.5:
        return of_text(draw, content)
    return yaml.safe_dump(of_tree(draw, yaml.safe_load(content), VALUES), allow_unicode=True).encode()


def sealed(path: Path, content: bytes) -> None:
    """As this suite seals: then nothing but what it holds is wrong with a file."""
    with files.sealed_file(path) as file:
        file.write(content)


def of_arrays(draw: random.Random, content: bytes) -> bytes:
    """An .npz of other arrays, or of members whose headers lie, that are encrypted, or that hold gigabytes."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        chosen = draw.choice(list(arrays))
        for name, array in arrays.items():
            member = _npy(array)
            if name == chosen:
                match draw.randrange(9):
                    case 0:
                        continue
                    case 1:
                        member = of_bytes(draw, member)
                    case 2:
                        member = _npy(array, shape=draw.choice(((2**50,), (0, 2**62), (-1,), (2**31, 2**31), ("x",))))
                    case 3:
                        member = _npy(array, descr=draw.choice(("|O", "<f8", "<U1000000", "|V0", "<c16", "<m8", "x")))
                    case 4:
                        kind = draw.choice((np.float32, np.int64, np.uint8, np.uint64, np.complex64, bool))
                        member = _npy(array.astype(kind) if array.dtype.kind != "U" else np.zeros(3, kind))
                    case 5 if array.dtype.kind == "f":
                        member = _npy(array * draw.choice((np.nan, np.inf, -1e30)))
                    case 6:
                        member = _npy(np.resize(array, draw.choice(((0,), (1,), (3, 3), (2, 2, 2, 2)))))
                    case 7:
                        member += bytes(draw.choice((1, 100, 2**25)))
                    case _:
                        member = _npy(array[..., ::-1] if array.ndim else np.roll(np.resize(array, 2), 1))
            archive.writestr(f"{name}.npy", member)
    spoilt = bytearray(out.getvalue())
    if draw.random() < 0.1:  # the bit of an encrypted member, in its own header and in the directory
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            if (place := spoilt.find(mark)) >= 0:
                spoilt[place + at] |= 1
    return bytes(spoilt) if draw.random() < 0.8 else of_bytes(draw, bytes(spoilt))


def _npy(array: np.ndarray, **lies: Any) -> bytes:
    out = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(np.asarray(array)) | lies
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + np.ascontiguousarray(array).tobytes()


def tensors() -> list[Any]:
    """What may stand in the place of a tensor."""
    one = torch.ones(3)
    return [
        *VALUES[:20], torch.ones(()), torch.ones(0), torch.ones(2, 2, 2, 2), one.expand(2**20, 3), one.to("meta"),
        one.to_sparse(), one * float("nan"), one.long(), one.bool(), one.to(torch.complex64), one.double(),
        one.to(torch.float8_e4m3fn), torch.ones(1).expand(1, 2**24 + 1, 16), argparse.Namespace(model=["x"]),
        {"a": one}, [one], one.as_strided((2, 2), (0, 1)),
    ]  # fmt: skip


def of_torch(draw: random.Random, content: bytes) -> bytes:
    """Another state under the same names, or the same in an archive that is compressed or damaged."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    out = io.BytesIO()
    way = draw.random()
    if way < 0.75:
        changed, is_zip = of_tree(draw, state, tensors()), draw.random() < 0.9
        try:
            torch.save(changed, out, _use_new_zipfile_serialization=is_zip)
        except (RuntimeError, NotImplementedError):  # the old format has no tensors without memory
            return content[: len(content) // 2]
        return out.getvalue()
    if way < 0.85:
        torch.save(state, out)
        packed = io.BytesIO()
        with zipfile.ZipFile(out) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in whole.namelist():
                archive.writestr(name, whole.read(name) if draw.random() < 0.9 else bytes(2**20))
        return packed.getvalue()
    return of_bytes(draw, content)


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exec, ("raise SystemExit('a file has run code')",))


def of_pickle(draw: random.Random, content: bytes) -> bytes:
    """Other opcodes, or another object."""
    if draw.random() < 0.6:
        return of_bytes(draw, content)
    bombs = [
        b"\x80\x02r\xff\xff\xff\xffN.", b"\x80\x04\x8e" + b"\xff" * 8, b"\x80\x02]" + b"(" * 5000 + b".",
        b"\x80\x02})" + b"2\x86" * 40 + b"Ns.",
        b"\x80\x02})q\x000" + b"h\x00h\x00\x86q\x000" * 40 + b"h\x00Ns.", pickle.dumps(_Runs()),
        pickle.dumps({"fine_labels": draw.choice(VALUES[:30]), "data": np.zeros((2, 3072), draw.choice(("u1", "O")))}),
    ]  # fmt: skip
    return draw.choice(bombs)

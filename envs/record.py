"""Record an image that envs/build.sh has built: write envs/famba-cpu.built.json or envs/famba-cuda.built.json.

    (time envs/build.sh cuda) 2>&1 | tee build.log
    python envs/record.py cuda build.log

The image's own labels must name the files of this checkout. Versions and architectures are what the image reports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from famba.errors import InputError  # noqa: E402
from famba.system import built  # noqa: E402
from famba.system.host import usable_cpus  # noqa: E402


def apptainer(*arguments: str) -> str:
    try:
        return subprocess.run(["apptainer", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    except FileNotFoundError:
        raise InputError("apptainer is missing: apptainer.org/docs/admin says how to install it") from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"apptainer {arguments[0]}: exit status {error.returncode}") from None


def require_own(image: str, sif: Path) -> None:
    """Raises InputError unless the image was built from the files of this checkout."""
    definition = hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in built.DEFINITIONS[image]))
    lock = hashlib.sha256((ROOT / f"envs/famba-{image}.txt").read_bytes())
    labels = json.loads(apptainer("inspect", "--json", str(sif)))["data"]["attributes"]["labels"]
    for name, now in {"definition": definition, "lock": lock}.items():
        if labels.get(f"famba.{name}.sha256") != now.hexdigest():
            raise InputError(f"{sif}: its {name} is not that of this checkout: envs/build.sh {image} makes it anew")


def seconds(log: str, pattern: str, path: Path) -> int:
    found = re.findall(pattern, log, flags=re.MULTILINE)
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} lines like {pattern!r}, not 1: it is not the log of one build")
    return int(found[0])


def cpu_seconds(log: str, path: Path) -> int:
    """Those that bash's `time` reports, of user and system."""
    found = re.findall(r"^(?:user|sys)\s+(\d+)m([\d.]+)s$", log, flags=re.MULTILINE)
    if len(found) != 2:
        raise InputError(f"{path}: it does not end in what bash's `time envs/build.sh ...` reports")
    return round(sum(60 * int(minutes) + float(rest) for minutes, rest in found))


def recorded(image: str, log: Path) -> built.Built:
    sif = ROOT / f"envs/famba-{image}.sif"
    require_own(image, sif)
    said = log.read_text(encoding="utf-8", errors="replace")
    with open(sif, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256 {sha256}" not in said:
        raise InputError(f"{log}: it is not the log of {sif}, sha256 {sha256}")
    inside = ("exec", "--cleanenv", str(sif), "python", "envs/check.py", "/opt/famba/lock.txt", "--facts")
    facts = json.loads(apptainer(*inside))
    extensions = facts.pop("extensions")
    for name, extension in extensions.items():
        compiled = rf"^extensions\.sh: {extension.pop('source')} compiled in (\d+) s$"
        extensions[name] = extension | {"compile_seconds": seconds(said, compiled, log)}
    return built.Built.model_validate(
        {
            "image": image,
            "inputs": built.inputs(image, ROOT),
            "file": {"bytes": sif.stat().st_size, "sha256": sha256},
            "build": {
                "day": datetime.fromtimestamp(sif.stat().st_mtime, UTC).date(),
                "apptainer": apptainer("--version").split()[-1],
                "cores": usable_cpus(),
                "seconds": seconds(said, rf"^envs/famba-{image}\.sif: .*, (\d+) s$", log),
                "cpu_seconds": cpu_seconds(said, log),
            },
            "contents": facts,
            "extensions": extensions,
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", choices=sorted(built.DEFINITIONS))
    parser.add_argument("log", type=Path, help="both streams of `time envs/build.sh ...`")
    args = parser.parse_args()
    try:
        record = recorded(args.image, args.log)
    except (InputError, OSError) as error:
        print(f"envs/record.py: {error}", file=sys.stderr)
        return 2
    path = ROOT / built.record_path(args.image)
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    size = f"{record.file.bytes / 2**20:,.0f} MiB"
    print(f"{path.relative_to(ROOT)}: {size}, {record.build.cpu_seconds} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

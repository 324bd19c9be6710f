"""Bring a data set to the data folder: `fetch` over HTTP, `pull` through DVC where the repository tracks it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from famba.config.datasets import data_folder
from famba.data import cifar100, digits, fashion_mnist, sources
from famba.data.download import PATIENCE, Patience, download, open_part, writing
from famba.data.registry import check_name
from famba.errors import InputError


def fetch(
    name: str,
    root: str | Path | None = None,
    url: str | None = None,
    kind: str | None = None,
    patience: Patience = PATIENCE,
) -> Path:
    """Download what is missing of data set `name` below `root`, verified; returns the archive, folder or file.

    root: the data folder [FAMBA_DATA, else `data`].
    url: instead of the published one; for fashion-mnist, of the folder that holds the four files.
    kind: which archive of cifar100, "binary" or "python"; without kind and url, any form that is there and right will
        do, and only where there is none the binary archive is fetched.
    A file that is there and right is left alone; one that is there and wrong is replaced once the right one is
    complete. Until then the download is called `<name>.part`, and a broken transfer is resumed by the next call.
    Raises InputError.
    """
    check_name(name)
    root = data_folder() if root is None else Path(root)
    if name == digits.NAME:
        return digits.locate()
    if name == cifar100.NAME:
        if url is None and kind is None and (form := _verified_form(root)):
            return form.path
        archive = sources.archive(cifar100.PYTHON if kind == "python" else cifar100.BINARY)
        return _fetch_archive(archive, root, url or archive.url, patience)
    for file in fashion_mnist.FILES:
        archive, packaged = sources.archive(file), fashion_mnist.DEBIAN / file
        # Debian's files are copied: a container does not see the system's folders
        own = packaged.as_uri() if packaged.exists() else archive.url
        _fetch_archive(archive, root, f"{url.rstrip('/')}/{file}" if url else own, patience)
    return root / fashion_mnist.NAME


def _verified_form(root: Path) -> cifar100.Form | None:
    """The first form of cifar100 below `root` that is verified; stderr says why a folder is not."""
    try:
        forms = cifar100.locate(root)
    except InputError:
        return None
    for form in forms:
        archive = form.path.name if form.kind in (cifar100.BINARY, cifar100.PYTHON) else None
        try:
            if archive:
                sources.check_file(form.path, sources.archive(archive))
            else:
                cifar100.load_form(form)
            return form
        except InputError as error:
            if not archive:  # an archive is fetched again, and then it is said
                print(f"not used: {error}", file=sys.stderr)
    return None


def _fetch_archive(archive: sources.Archive, root: Path, url: str, patience: Patience) -> Path:
    target = root / archive.file
    if target.exists():
        try:
            sources.check_file(target, archive)
            return target
        except InputError as error:
            print(f"{error}; fetching it again", file=sys.stderr)
    try:
        _download_verified(archive, target, url, patience)
    except InputError as error:
        by_hand = f"place the file at {target} yourself, or name a mirror in the YAML file that FAMBA_SOURCES points at"
        raise InputError(f"{error}; {by_hand}") from error
    return target


def _download_verified(archive: sources.Archive, target: Path, url: str, patience: Patience) -> None:
    """Download beside `target`, verify, and only then give the file its name."""
    part = target.with_name(target.name + ".part")
    size = None if archive.packed else archive.bytes
    with open_part(part) as file:
        resumed = file.tell() > 0
        while True:
            download(url, file, size, patience, most=max(archive.bytes or 0, archive.most))
            try:
                sources.check_file(part, archive, with_md5=True)
                break
            except InputError as error:
                file.truncate(0)
                if not resumed:
                    raise InputError(f"{url}: the download is refused and deleted: {error}") from error
                # the first bytes may stem from another version of the file: once more, from the start
                resumed = False
        with writing(target):
            os.fsync(file)
            os.replace(part, target)


def pull(name: str, root: str | Path | None = None) -> Path:
    """Like `fetch`, but an archive of cifar100 comes through its DVC stage: from DVC's cache or remote, or its URL."""
    check_name(name)
    root = data_folder() if root is None else Path(root)
    if name != cifar100.NAME:
        return fetch(name, root)
    if form := _verified_form(root):
        return form.path
    if reason := _no_dvc(root):
        print(f"fetching {name} without DVC: {reason}", file=sys.stderr)
        return fetch(name, root, kind="binary")
    path, archive = root / cifar100.BINARY, sources.archive(cifar100.BINARY)
    # DVC's cache and remote can only have what dvc.lock pins, and DVC does not pull over a file that is in the way
    pinned = archive.md5 is not None and archive.md5 in Path("dvc.lock").read_text(encoding="utf-8")
    from_cache = ["--pull"] if pinned and not path.exists() else []
    # the stage's command says `python`: let that be the one that runs here
    path_variable = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *from_cache, name]
    if subprocess.run(command, env={**os.environ, "PATH": path_variable}, check=False).returncode:
        raise InputError(f"`dvc repro {name}` failed, the lines above say why")
    sources.check_file(path, archive)
    return path


def _no_dvc(root: Path) -> str | None:
    """Why DVC cannot bring the data here, if so."""
    if importlib.util.find_spec("dvc") is None:
        return "dvc is not installed"
    if not Path("dvc.lock").exists() or root.resolve() != Path("data").resolve():
        return f"{root} is not the data folder of a DVC repository"
    return None

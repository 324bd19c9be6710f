"""An image folder of your own, `{train,val|test}/<class>/<image>`, as its manifest lists it."""

from pathlib import Path

from famba.config.image_folder import ListedFolder
from famba.data.dataset import Dataset, Identity
from famba.data.image_files import ImageFiles, decoder
from famba.data.manifest import Manifest, read_manifest, require_same
from famba.errors import InputError


def locate(root: Path, name: str) -> Path:
    """The folder `name` in the data folder, or the data folder where that is one itself. Raises InputError."""
    if (root / name).is_dir():
        return root / name
    if (root / "train").is_dir():
        return root
    raise InputError(
        f"{root / name} is missing: put the image folder there, name it by data.folder, or name another data folder by "
        "--data, --root or FAMBA_DATA"
    )


def load(name: str, root: Path, folder: ListedFolder, hashed: bool = False) -> Dataset:
    """The data set; its images are decoded as they are asked for.

    The folder's file names and sizes are compared with the manifest here. The bytes of an image are, by sha256, each
    time before it is decoded, or here, with `hashed`, all of them. Raises InputError, which names the files.
    """
    manifest = read_manifest(Path(folder.manifest))
    if manifest.head.sha256 != folder.sha256:
        raise InputError(
            f"manifest {folder.manifest}: sha256 {manifest.head.sha256[:16]}…, and the cell is of "
            f"{folder.sha256[:16]}…: other data"
        )
    place = locate(root, folder.folder or name)
    require_same(manifest, place, hashed)
    train, test = manifest.splits()
    return Dataset(
        name,
        ImageFiles(place, manifest.paths[train], manifest.sha256[train], folder.size),
        manifest.labels[train],
        ImageFiles(place, manifest.paths[test], manifest.sha256[test], folder.size),
        manifest.labels[test],
        manifest.classes,
        _identity(name, manifest, folder.size),
    )


def _identity(name: str, manifest: Manifest, size: int | None) -> Identity:
    head = manifest.head
    train, test, order = manifest.digests(size)
    return Identity(
        name=name,
        source=f"image folder {{train,{head.evaluated}}}/<class>/*",
        sha256=head.sha256,
        bytes=head.bytes,
        train=head.train,
        test=head.test,
        classes=len(head.classes),
        channels=3,
        size=size,
        train_digest=train,
        test_digest=test,
        order_digest=order,
        decoder=decoder(),
    )

"""What the tokens of a trained model do, layer by layer, in a file of some ten kilobytes: tokens.npz beside a row.

It is what the figures of similarity and of fused patches are drawn from. The weights stay where they were trained.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from famba.errors import InputError
from famba.results import arrays
from famba.results.row import Row

NAME = "tokens.npz"
_ABSENT = "absent"  # pairs of the maps that no image has, in bits; not written where there is none
_FIELDS = {
    "best_match": "f",
    "layers": "u",
    "lowest": "f",
    "similarity": "u",
    "images": "u",
    "groups": "u",
    "seen": "i",
}
_LARGEST_COSINE = 1.01  # rounded
_UNMATCHED = 3  # tokens or fewer, of which an image may have none at an even or none at an odd position
_MAPS, _EXAMPLES, _SIDE = 16, 16, 256  # layers, images and their pixels per side: more than any record has


@dataclass(frozen=True)
class TokenRecord:
    """Similarity and fusion of the tokens of a trained model, on the first images of the test set.

    Patches are those of the image in the order of the scan, P of them; the class token, which is never fused, is left
    out. Similarity is the cosine of the vectors that the matching compares (`famba.fusion.match`): each layer's hidden
    states after its norm, before it fuses. A patch that has been fused stands with its group's vector.

    Attributes:
        best_match: (depth,) mean over images and over the tokens at even positions (but not the class token) of the
            largest similarity to a token at an odd position; NaN where so few are left that no image has both.
        layers: (k,) the layers that have a map.
        similarity: (k, P, P) float32, the similarity of any two patches, mean over the images that have both still;
            NaN where none has.
        images: (n, s, s, 3) uint8, the example images as the model sees them, made smaller.
        groups: (n, depth, P) group of each patch of an example at the end of that layer, named by its first patch; P
            for a patch that was dropped.
        seen: images that the means are over.
    """

    best_match: np.ndarray
    layers: np.ndarray
    similarity: np.ndarray
    images: np.ndarray
    groups: np.ndarray
    seen: int

    def tokens(self, example: int, layer: int) -> int:
        """Tokens that are left of an example at the end of that layer, class token included."""
        groups = self.groups[example, layer]
        return len(np.unique(groups[groups < len(groups)])) + 1


def write_tokens(record: TokenRecord, path: Path) -> None:
    """Write a record, compressed. A map is symmetric and its diagonal is 1: one triangle is kept, in 8 bits between
    the least similarity of all and 1. Raises InputError if it cannot be written."""
    upper = np.triu_indices(record.similarity.shape[1], 1)
    triangles = record.similarity[:, upper[0], upper[1]]
    absent = np.isnan(triangles)
    lowest = min(float(triangles.min(initial=1.0, where=~absent)), 0.999)
    triangles = np.where(absent, lowest, triangles)
    arrays.write_arrays(
        path,
        best_match=record.best_match.astype(np.float32),
        layers=record.layers.astype(np.uint16),
        lowest=np.array(lowest, np.float32),
        similarity=np.rint((triangles - lowest) / (1 - lowest) * 255).clip(0, 255).astype(np.uint8),
        images=record.images,
        groups=record.groups.astype(np.uint16),
        seen=np.array(record.seen, np.int64),
        **({_ABSENT: np.packbits(absent, axis=1)} if absent.any() else {}),
    )


def read_tokens(path: Path, row: Row) -> TokenRecord:
    """Read the record beside a row. Raises InputError if it is damaged, or not this row's."""
    depth, patches = row.cell.architecture.depth, row.cell.architecture.tokens - 1
    most = _MAPS * patches**2 + 2 * _EXAMPLES * depth * patches + 3 * _EXAMPLES * _SIDE**2 + 2**16
    stored = arrays.read_arrays(path, tuple(_FIELDS), "the token record", most, optional=_ABSENT)
    upper = np.triu_indices(patches, 1)
    layers, triangles, images = stored["layers"], stored["similarity"], stored["images"]
    examples, side = (*images.shape, 0, 0)[:2]
    shapes = {
        "images": (examples, side, side, 3),
        "best_match": (depth,),
        "layers": (layers.size,),
        "similarity": (layers.size, len(upper[0])),
        "groups": (examples, depth, patches),
        "lowest": (),
        "seen": (),
        _ABSENT: (layers.size, -(-len(upper[0]) // 8)),
    }
    if any(stored[name].shape != shape for name, shape in shapes.items() if name in stored):
        raise InputError(
            f"{path}: its arrays are not of {depth} layers and {patches} patches, as row {row.id} has; "
            "train the cell again"
        )
    best, ends = stored["best_match"], row.tokens.range
    fewest = np.array(row.tokens.measured[:depth] if ends is None else [least for least, _ in ends[:depth]])
    unmatched = np.zeros(depth, bool) if best.dtype.kind != "f" else np.isnan(best) & (fewest <= _UNMATCHED)
    cosines = np.append(best[~unmatched], stored["lowest"])
    kinds = all(stored[name].dtype.kind == kind for name, kind in _FIELDS.items())
    if not (examples and side and layers.size and kinds and np.isfinite(cosines).all()):
        raise InputError(f"{path}: it has no example, or values that are no finite numbers; train the cell again")
    if (
        np.abs(cosines).max() > _LARGEST_COSINE
        or not triangles.dtype == images.dtype == stored.get(_ABSENT, images).dtype == np.uint8
        or layers.max() >= depth
        or (np.diff(layers.astype(int)) <= 0).any()
        or stored["groups"].max() > patches
        or stored["seen"] < 1
    ):
        raise InputError(
            f"{path}: it has cosines above 1, or layers or groups that are not there; train the cell again"
        )
    lowest = float(stored["lowest"])
    triangles = lowest + triangles / np.float32(255) * (1 - lowest)
    if _ABSENT in stored:
        triangles[np.unpackbits(stored[_ABSENT], axis=1, count=triangles.shape[1]).astype(bool)] = np.nan
    maps = np.tile(np.eye(patches, dtype=np.float32), (len(layers), 1, 1))
    maps[:, upper[0], upper[1]] = maps[:, upper[1], upper[0]] = triangles
    record = TokenRecord(stored["best_match"], layers, maps, stored["images"], stored["groups"], int(stored["seen"]))
    # what a mixer sees is what its layer leaves, unless the method acts after it
    expected = row.tokens.measured[1:] if row.cell.fusion.late else row.tokens.measured[:-1]
    for example in range(examples):
        left = tuple(record.tokens(example, layer) for layer in range(depth))
        if ends is not None and all(least <= n <= most for n, (least, most) in zip(left, ends, strict=False)):
            continue
        if left != expected:
            raise InputError(f"{path}: tokens per layer {left}, but row {row.id} says {expected}; train the cell again")
    return record

"""Arrays beside a row: no file makes their reader take more memory than the row asks for, or say more than a line."""

import io
import zipfile

import numpy as np
import pytest

from famba.errors import InputError
from famba.files import sealed_file
from famba.results.arrays import read_arrays, write_arrays


def archive(member: bytes, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        file.writestr("a.npy", member)
    return out.getvalue()


def npy(array: np.ndarray, **lies: object) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array) | lies)
    return out.getvalue() + array.tobytes()


def encrypted(content: bytes) -> bytes:
    """Its flag in the member's own header and in the directory."""
    spoilt = bytearray(content)
    spoilt[6] |= 1
    spoilt[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(spoilt)


NUMBERS = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive(npy(np.zeros(2**25, np.uint8))), "a is not the"),  # 32 MiB in 32 KiB
        (
            archive(npy(np.zeros(100, np.float64))),
            "its arrays are larger than 64 bytes, which its row does not ask for",
        ),
        (archive(npy(NUMBERS, shape=(2**50,))), r"a is not the \(1125899906842624,\) float32 that its header says"),
        (archive(npy(NUMBERS, shape=(0, 2**62))), "a is not the"),
        (archive(npy(NUMBERS, descr="|O")), "a is not the"),
        (archive(npy(NUMBERS, shape=(-6,))), "a is not the"),
        (archive(npy(NUMBERS)[:-1]), "a is not the"),
        (archive(npy(NUMBERS), zipfile.ZIP_LZMA), "a is encrypted, or compressed as numpy does not"),
        (encrypted(archive(npy(NUMBERS))), "a is encrypted"),
        (archive(b"no array"), "it is damaged: ValueError"),
        (b"no archive", "it is damaged: BadZipFile"),
        (bytes(2**17), "it is larger than 65,600 bytes"),
    ],
)
def test_what_is_no_array_is_one_line(content, message, tmp_path):
    with sealed_file(tmp_path / "x.npz") as file:
        file.write(content)
    with pytest.raises(InputError, match=message) as caught:
        read_arrays(tmp_path / "x.npz", ["a"], "the arrays", 64)
    assert str(caught.value).endswith("; train the cell again")


def test_arrays_of_any_order_are_read_up_to_the_last_byte(tmp_path):
    matrix = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    write_arrays(tmp_path / "x.npz", a=matrix, b=np.array("text"), c=np.zeros((0, 3)))
    read = read_arrays(tmp_path / "x.npz", ["a", "b", "c"], "the arrays", 12 + 16, optional="d")
    assert np.array_equal(read["a"], matrix)
    assert (str(read["b"]), read["c"].shape, read.keys()) == ("text", (0, 3), {"a", "b", "c"})

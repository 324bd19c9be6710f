"""Documents as the report takes them over: code, public sources, whole tables."""

import pytest

from famba.errors import InputError
from famba.report import prose
from famba.report.prose import Piece


@pytest.mark.parametrize(
    "text",
    ["", " \n\n", "# No table\n\nwords", "| a | b |", "| a | b |\n| 1 | 2 |", "|\n|", "| a | b |\n|---|---|\n| 1 |"],
)
def test_a_document_without_a_whole_table_is_refused(tmp_path, text):
    (tmp_path / "d.md").write_text(text)
    with pytest.raises(InputError, match=r"d\.md"):
        prose.deviations(tmp_path / "d.md")


def test_prose_knows_code_and_public_sources():
    found = list(prose.pieces("see `a_b`, [f.md](f.md) at github.com/x/y-z, arXiv 2409.09808, doi 10.1007/978-3.20."))
    assert found == [
        Piece("see "),
        Piece("a_b", code=True),
        Piece(", "),
        Piece("f.md", code=True),
        Piece(" at "),
        Piece("github.com/x/y-z", href="https://github.com/x/y-z"),
        Piece(", "),
        Piece("arXiv 2409.09808", href="https://arxiv.org/abs/2409.09808"),
        Piece(", "),
        Piece("doi 10.1007/978-3.20", href="https://doi.org/10.1007/978-3.20"),
        Piece("."),
    ]

"""One description of a table, and the forms that it is written in."""

import csv
import io

from famba.results.tables import Column, Entry, number, table

COLUMNS = (Column("model"), Column("why | how"), Column("time", "r", "(s)"))
LINES = (("a_b", "50 % → x|y", number(1234.5678, 1, 2.0)), ("a_b", "none", number(None)), ("c", "", number(7.0)))
TABLE = table(COLUMNS, LINES, id="t", caption="A caption", note="A note.", run="made up", grouped=True)


def test_markdown_is_aligned_and_escapes_what_would_be_a_column():
    assert TABLE.markdown.splitlines() == [
        r"| model | why \| how  |      time (s) |",
        r"| ----- | ----------- | ------------: |",
        r"| a_b   | 50 % → x\|y | 1,234.6 ± 2.0 |",
        r"| a_b   | none        |             – |",
        r"| c     |             |          7.00 |",
    ]


def test_an_entry_of_several_lines_stays_in_its_line():
    text = table((Column("why"), Column("n", "r")), [("first\n  and\tsecond", "1")]).markdown
    assert text.splitlines()[2] == "| first and second |   1 |"


def test_words_that_wrap_are_not_padded():
    text = table((Column("n", "r"), Column("why", wide=0.4)), [("1", "a long reason")]).markdown
    assert text == "| n | why |\n| --: | --- |\n| 1 | a long reason |"


def test_latex_groups_lines_and_escapes():
    lines = TABLE.latex.splitlines()
    assert lines[:5] == [
        r"\begin{tabular}{@{}llr@{}}", r"\toprule", r"model & why | how & time \\", r" &  & (s) \\", r"\midrule",
    ]  # fmt: skip
    assert lines[5:9] == [
        r"a\_b & 50 \% $\to$ x|y & 1,234.6 $\pm$ 2.0 \\", r" & none & -- \\", r"\midrule", r"c &  & 7.00 \\",
    ]  # fmt: skip
    assert r"\caption{Run: made up. A note.}" in TABLE.latex_float
    assert r"\label{tab:t}" in TABLE.latex_float


def test_csv_has_the_exact_numbers():
    assert list(csv.reader(io.StringIO(TABLE.csv)))[1:] == [
        ["a_b", "50 % → x|y", "1234.57"], ["a_b", "none", "–"], ["c", "", "7"],
    ]  # fmt: skip


def test_plain_text_is_aligned_without_trailing_blanks():
    lines = table((Column("cell"), Column("s", "r"), Column("why")), [("a", "10.0", ""), ("bcdef", "2.0", "x")]).plain
    assert lines == "cell      s  why\na      10.0\nbcdef   2.0  x"


def test_a_table_without_a_number_is_empty():
    assert table(COLUMNS, [("a", "b", number(None))]).empty
    assert table(COLUMNS, []).empty
    assert not TABLE.empty
    assert not table((Column("word"),), [(Entry("x"),)]).empty


def test_nothing_that_a_row_or_a_ledger_says_is_formatting():
    hostile = "<script>x</script> ![a](b) **c** `d` | _e_ &lt; ~~f~~ $g$ \\ vim_tiny 1 < 2\n# h \x1b[31m [95 %]"
    shown = (
        r"&lt;script>x&lt;/script> \![a\](b) \*\*c\*\* \`d\` \| \_e\_ &amp;lt; \~\~f\~\~ \$g\$ \\ vim_tiny 1 < 2 # h "
        r"\\x1b[31m [95 %]"
    )
    written = table((Column("why", wide=0.5),), [[hostile]], run=hostile, sentences=[hostile]).markdown_page
    assert written.splitlines() == [f"Run: {shown}.", "", "| why |", "| --- |", f"| {shown} |", "", f"* {shown}"]

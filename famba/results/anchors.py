"""Where the page shows a line of the summary, and a row."""

from famba.results.row import Row


def line_id(model: str, strategy: str) -> str:
    """The id of a line of the summary."""
    return f"line-{model}-{strategy}"


def line_href(model: str, strategy: str) -> str:
    """A link to a line of the summary."""
    return f"#{line_id(model, strategy)}"


def row_href(row: Row) -> str:
    """A link to a row."""
    return f"#row-{row.id}"

"""Words for people that several places say alike."""


def count(number: int, noun: str) -> str:
    """`1 row`, `3 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def install(extra: str) -> str:
    """How to get what pyproject.toml lists under an extra: famba is in no package index, only in its checkout."""
    by_hand = f"pip install '.[{extra}]' in the checkout"
    return by_hand if extra == "cuda" else f"make .venv/installed, or {by_hand}"

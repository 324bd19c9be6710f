"""What several test files share, by subject."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

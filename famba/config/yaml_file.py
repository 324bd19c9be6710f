"""The one reader of YAML files. A key that stands twice is an error: YAML libraries silently take the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_LARGEST, _DEEPEST = 2**20, 50  # bytes, levels: far beyond any experiment or ledger


class _Loader(yaml.SafeLoader):
    """A safe loader that checks mappings as they are written, before merge keys (`<<`) are resolved."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"the key {key.value!r} is there twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return node


def read(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
        yaml.YAMLError: it is no YAML, has a key twice, or is larger or deeper than settings can be.
    """
    if path.stat().st_size > _LARGEST:
        raise yaml.YAMLError(f"larger than {_LARGEST:,} bytes")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError:
        raise
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None  # such as `!!int x`

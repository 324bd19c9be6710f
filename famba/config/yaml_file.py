"""The one reader of YAML files: the core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3.2).

PyYAML alone reads YAML 1.1, where `1:30` is 90, `010` is 8, `yes` is true and `5e-4` is a text, and takes the last of
two equal keys. Here a key that is there twice is an error, and so is an explicit tag such as `!!int`.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from famba.errors import InputError
from famba.files import open_regular

_LARGEST, _DEEPEST = 2**20, 64  # bytes, levels: far beyond any experiment or ledger
_MOST = 2**20  # values, those behind an alias counted each time: a few aliases of aliases can stand for billions
_SHELL = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # pipes of a shell: `--config <(sed ...)`
_LONGEST = 40  # characters of an integer
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # only an escape can write them


class _Loader(yaml.SafeLoader):
    """Checks nodes as they are written, before merge keys (`<<`) are resolved."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (not the parent's: those are of YAML 1.1)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._values_in: dict[int, int] = {}  # by id of a node; the root keeps all nodes alive

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"line {line}: the tag {event.tag.replace(_TAG, '!!')}; leave it out")
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._values
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"line {line}: nested more than {_DEEPEST} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._values_in:
            raise yaml.YAMLError(f"line {line}: *{event.anchor} stands inside the value that it names")
        self._values += self._values_in[id(node)] if is_alias else 1
        if self._values > _MOST:
            raise yaml.YAMLError(f"line {line}: more than {_MOST:,} values")
        self._values_in.setdefault(id(node), self._values - before)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a key that is a list or a mapping")
            name = key.value if key.tag == _MERGE else self.construct_object(key)
            if name in lines:
                raise yaml.YAMLError(f"the key {name!r} is there twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return node

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text: str = node.value
        value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) <= _LONGEST else None
        if value is None or abs(value) >= 2**64:
            raise yaml.YAMLError(f"{_line(node)}an integer of more than 64 bits")
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if found := _NO_TEXT.search(node.value):
            raise yaml.YAMLError(f"{_line(node)}the control character {found[0]!a} in a text")
        text: str = node.value
        return text


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}: " if node.start_mark else ""


_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
for _name, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),  # of YAML 1.1, but in wide use
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_form})\Z"), _first)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_integer)
_Loader.add_constructor(f"{_TAG}str", _Loader.construct_text)


def read(path: str | Path, what: str = "the file", source: str | None = None, hint: str = "") -> Any:
    """What a YAML file holds; `what` it is and where it is named, for messages, and a hint where it cannot be read.

    Raises InputError: it cannot be read, is no YAML, has a key twice or a tag, or is larger or deeper than settings
    can be.
    """
    source = source or str(path)
    try:
        with open(path, "rb") if str(path).startswith(_SHELL) else open_regular(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{source}: not valid YAML (larger than {_LARGEST:,} bytes)")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise InputError(f"{source}: cannot read {what} ({reason}){hint}") from None
    return value(text, source)


def value(text: str, source: str) -> Any:
    """What a text in YAML stands for. Raises InputError, one line that begins with `source`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:  # of several lines, with a part of the file
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        if mark := error.problem_mark or error.context_mark:
            problem = f"line {mark.line + 1}: {problem}"
    except yaml.YAMLError as error:
        problem = str(error)
    except (ValueError, OverflowError) as error:
        problem = f"a value that cannot be read: {error}"  # such as "\UFFFFFFFF"
    raise InputError(f"{source}: not valid YAML ({problem})")


def scalar(text: str) -> Any:
    """What an unquoted text stands for in such a file. Raises yaml.YAMLError."""
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return text if tag == _MERGE else loader.construct_object(yaml.ScalarNode(tag, text))

"""docs/files.md: every file of famba/ with the first sentence of its docstring.

`python -m tests.helpers.file_list >docs/files.md` after such a sentence has changed.
"""

import ast
import re
from pathlib import Path

from tests.helpers import ROOT

HEAD = """# Every file of famba/

The first sentence of each file, folder by folder. [how-it-works.md](how-it-works.md) shows how a batch of images and a
result row pass through them. Written by `python -m tests.helpers.file_list`.
"""


def file_list() -> str:
    """The page, in Markdown. C++ headers and sources count, the page's templates do not."""
    package = ROOT / "famba"
    folders = sorted(path.parent for path in package.rglob("__init__.py"))
    return "\n".join([HEAD, *map(_folder, folders)])


def _folder(folder: Path) -> str:
    name = f"{folder.relative_to(ROOT)}/"
    sentence = _first_sentence(folder / "__init__.py")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".py", ".cpp", ".h"))
    listed = [path for path in files if not path.name.startswith("__")]
    rows = [f"| `{path.name}` | {_first_sentence(path)} |" for path in listed]
    return "\n".join([f"## {name}", "", sentence, "", "| file | |", "|---|---|", *rows, ""])


def _first_sentence(path: Path) -> str:
    text = path.read_text()
    if path.suffix == ".py":
        comment = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.sub(r"^// ?", "", re.match(r"(//.*\n)*", text)[0], flags=re.MULTILINE)
    paragraph = " ".join(comment.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph, maxsplit=1)[0].replace("|", r"\|")


if __name__ == "__main__":
    print(file_list(), end="")

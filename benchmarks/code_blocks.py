"""Documents that show the present code of a file, in place of a copy."""

import ast
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

_CODE = re.compile(
    r"(?P<begin><!-- code (?P<path>\S+) (?P<name>[\w.]+)"
    r'(?: "(?P<first>[^"\n]+)" "(?P<last>[^"\n]+)")? -->)\n'
    r"(?:(?!<!-- code ).)*?(?P<end><!-- /code -->)",
    re.DOTALL,
)


def with_code(text: str, root: Path) -> str:
    """Return a document that shows the present code of some files.

    After ``<!-- code FILE NAME -->``, up to ``<!-- /code -->``, stands a function or class of a
    file, without its docstring; after ``<!-- code FILE NAME "FIRST" "LAST" -->`` its lines from
    the one that contains the first words to the next that contains the last.

    Args:
        text: the document.
        root: what the names of files are relative to.

    Raises:
        ValueError: there is no such function, or no such line in it, or a mark without its end.
    """
    shown = _CODE.sub(lambda mark: _shown(mark, root), text)
    if shown.count("<!-- code ") != len(_CODE.findall(shown)):
        raise ValueError('<!-- code FILE NAME "FIRST" "LAST" --> must be closed by <!-- /code -->')
    return shown


def _shown(mark: re.Match[str], root: Path) -> str:
    source = (root / mark["path"]).read_text(encoding="utf-8")
    lines = _lines_of(source, mark["name"], mark["path"])
    if mark["first"] is not None:
        begin = _index_of(mark["first"], lines, 0, mark)
        lines = lines[begin : _index_of(mark["last"], lines, begin, mark) + 1]
    code = textwrap.dedent("\n".join(lines))
    return f"{mark['begin']}\n```python\n{code}\n```\n{mark['end']}"


def _index_of(words: str, lines: Sequence[str], begin: int, mark: re.Match[str]) -> int:
    for index in range(begin, len(lines)):
        if words in lines[index]:
            return index
    raise ValueError(f"{mark['begin']}: {mark['name']} has no line with {words!r}")


def _lines_of(source: str, name: str, path: str) -> list[str]:
    """Return the lines of a function or class, ``Class.method`` included, less its docstring."""
    body: Sequence[ast.AST] = ast.parse(source).body
    found: ast.FunctionDef | ast.ClassDef | None = None
    for part in name.split("."):
        named = [one for one in body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
        found = next((one for one in named if one.name == part), None)
        if found is None:
            raise ValueError(f"{path} has no function or class {name}")
        body = found.body
    assert found is not None
    first = min(part.lineno for part in (found, *found.decorator_list))
    lines = source.splitlines()
    kept = set(range(first, (found.end_lineno or first) + 1))
    if ast.get_docstring(found) is not None and len(found.body) > 1:
        after = found.body[0].end_lineno or first
        while not lines[after].strip():
            after += 1
        kept -= set(range(found.body[0].lineno, after + 1))
    return [lines[number - 1] for number in sorted(kept)]

"""Results on disk: CSV files, and the parts of documents that are written from them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bullet_envs.agents.checkpoints import write_atomically


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV."""
    lines = [",".join(columns), *(",".join(str(row[name]) for name in columns) for row in rows)]
    write_atomically(path, "\n".join([*lines, ""]).encode())


def with_section(text: str, name: str, content: str) -> str:
    """Return a document with the part between ``<!-- name -->`` and ``<!-- /name -->`` replaced.

    Raises:
        ValueError: there is no such part.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    if end not in rest:
        raise ValueError(f"the document must have a part from {begin} to {end}")
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"

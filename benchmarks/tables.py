"""Results on disk: CSV files, and the parts of documents that are written from them."""

import csv
import fcntl
import os
from collections.abc import Callable, Sequence
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


def add_rows(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    cell_of: Callable[[dict[str, Any]], Any],
    cells: Sequence[Any],
) -> None:
    """Add the rows of a cell to a CSV that another process may have added to.

    Args:
        path: of the CSV.
        columns: its columns.
        rows: of one cell, at least one; they replace those that the cell has.
        cell_of: returns the cell of a row.
        cells: all there are, in the order of the CSV; within a cell rows are ordered by ``steps``.
    """
    order = {cell: place for place, cell in enumerate(cells)}
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        everything = [row for row in read_rows(path) if cell_of(row) != cell_of(rows[0])]
        everything += rows
        everything.sort(key=lambda row: (order[cell_of(row)], int(row["steps"] or 0)))
        write_rows(path, columns, everything)
    finally:
        os.close(folder)


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

"""Other suites beside this one: the table of ``docs/comparison.md``.

``suites.csv`` has what was read about each, with the date and the place, and beside which of its
environments ``docs/bench.json`` has ours. Write the table anew (``make bench`` does)::

    python -m benchmarks.suites
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bullet_envs.agents.checkpoints import write_atomically

from .tables import read_rows, with_section

CSV_PATH = Path(__file__).parent / "suites.csv"
ASPECTS = ("engine and tasks", "images", "many at once", "compared with")
TIMED = ("one", "64 at once", "one, images")


def ratio_to(results: dict[str, Any], over: str) -> float:
    """Return how many steps our cart-pole makes for each of another environment.

    Raises:
        KeyError: it was not timed.
    """
    for section in results["sections"]:
        for ratio in section["ratios"]:
            if ratio["over"] == over and ratio["name"].startswith("BulletCartPole"):
                return float(ratio["median"])
    raise KeyError(f"{over} was not timed")


def table(rows: list[dict[str, Any]], results: dict[str, Any]) -> str:
    """Return the Markdown table, a line for each suite."""
    columns = ["suite", *ASPECTS, *TIMED]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        name = f"[{row['suite']}]({row['source']})" if row["source"] else f"**{row['suite']}**"
        cells = [f"{ratio_to(results, row[one]):.2f}" if row[one] else "" for one in TIMED]
        lines.append(f"| {' | '.join([name, *(row[one] for one in ASPECTS), *cells])} |")
    timed = [row[one] for row in rows for one in TIMED if row[one]]
    read = max(row["read"] for row in rows)
    lines += [
        "",
        f"Timed beside: {'; '.join(timed)}.",
        f"Read {read}; timed {results['date']}, {results['machine']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the table of a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--json", type=Path, default=Path("docs/bench.json"))
    parser.add_argument("--document", type=Path, default=Path("docs/comparison.md"))
    options = parser.parse_args()
    shown = table(read_rows(options.csv), json.loads(options.json.read_text()))
    text = with_section(options.document.read_text(), "suites", shown)
    write_atomically(options.document, text.encode())


if __name__ == "__main__":
    main()

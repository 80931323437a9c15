"""``make mutants``: changes to task, simulation and perturbation code that the quick tests notice.

mutmut (https://github.com/boxed/mutmut) makes each change, a mutant, and runs the quick tests that
call the changed function; ``[tool.mutmut]`` in ``pyproject.toml`` says which files and which tests.
Changes of strings are left out. What it knows lies in ``mutants/``, and is not run again until the
function changes::

    python -m benchmarks.mutants
    python -m benchmarks.mutants --survivors  # those again that no test had noticed
    python -m benchmarks.mutants --documents  # run none

The JSON has each survivor, with the reason that it may have. Reasons are written by hand.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bullet_envs.agents.checkpoints import write_atomically

from .tables import with_section

REQUIRED = 0.95
NOTICED = ("killed", "timeout", "segfault")
JSON_PATH = Path(__file__).parent / "mutants.json"


def main() -> None:
    """Run mutants, write the JSON and rewrite the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="of mutants, with *; all that have not been run")
    parser.add_argument("--survivors", action="store_true", help="run those again that survived")
    parser.add_argument("--documents", action="store_true", help="run none")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=JSON_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/mutants.md"))
    options = parser.parse_args()
    names = options.names
    if options.survivors:
        names = [one.name for one in tried() if one.status not in NOTICED]
    if not options.documents and (names or not options.survivors):
        command = [sys.executable, "-m", "benchmarks.mutmut_without_strings", "run"]
        command += ["--max-children", str(options.processes), *names]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
    known = json.loads(options.json.read_text()) if options.json.exists() else {"survivors": []}
    found = summary(tried(), reasons(known))
    write_atomically(options.json, (json.dumps(found, indent=1) + "\n").encode())
    text = options.document.read_text()
    write_atomically(options.document, with_section(text, "mutants", table(found)).encode())


@dataclass(frozen=True)
class Mutant:
    """A change and what the tests said of it.

    Args:
        name: mutmut's: the function, and a number.
        status: mutmut's word.
        path: of the file.
        diff: unified, empty if it was noticed.
    """

    name: str
    status: str
    path: str
    diff: str = ""


def tried() -> list[Mutant]:
    """Return all mutants that there are."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.file_utils import walk_mutatable_files

    found = []
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            diff = "" if status in NOTICED else get_diff_for_mutant(name, path=path)
            found.append(Mutant(name, status, str(path), diff))
    return found


def change_of(diff: str) -> tuple[str, str]:
    """Return what a unified diff takes away and what it puts there, each in one line."""
    lines = diff.splitlines()[2:]
    before, after = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return before, after


def reasons(known: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    """Return what was said of survivors, by function and change."""
    return {(one["function"], one["from"], one["to"]): one["reason"] for one in known["survivors"]}


def summary(mutants: Sequence[Mutant], said: dict[tuple[str, str, str], str]) -> dict[str, Any]:
    """Return how many mutants of each file there are and were noticed, and all that were not.

    Args:
        mutants: all that there are.
        said: the reasons that are known.
    """
    counts: dict[str, dict[str, int]] = {}
    survivors = []
    for one in mutants:
        count = counts.setdefault(one.path, {"mutants": 0, "noticed": 0})
        count["mutants"] += 1
        if one.status in NOTICED:
            count["noticed"] += 1
            continue
        function = one.name.rpartition("__mutmut_")[0]
        before, after = change_of(one.diff)
        survivors.append(
            {
                **{"function": function, "from": before, "to": after, "status": one.status},
                "reason": said.get((function, before, after), ""),
            }
        )
    return {"files": counts, "survivors": survivors}


def table(found: dict[str, Any]) -> str:
    """Return the tables of the document."""
    lines = ["| file | changes | noticed | share |", "|---|---|---|---|"]
    everything = {
        key: sum(one[key] for one in found["files"].values()) for key in ("mutants", "noticed")
    }
    for path, one in {**found["files"], "all": everything}.items():
        share = one["noticed"] / max(one["mutants"], 1)
        lines.append(f"| {path} | {one['mutants']} | {one['noticed']} | {100 * share:.1f} % |")
    lines += ["", "| function | from | to | why no test notices |", "|---|---|---|---|"]
    for one in found["survivors"]:
        before, after = (one[key].replace("|", "\\|") for key in ("from", "to"))
        lines.append(f"| {one['function']} | `{before}` | `{after}` | {one['reason']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The table of `make mutants`: what was noticed is counted, what was not has a reason."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.mutants import JSON_PATH, REQUIRED, Mutant, change_of, reasons, summary, table

DIFF = """--- a.py
+++ a.py
@@ -2,7 +2,7 @@
     if x:
-        return min(
-            a | b, 1)
+        return min(
+            a | b, 2)
     return 0
"""
MUTANTS = [
    Mutant("m.x_f__mutmut_1", "killed", "a.py"),
    Mutant("m.x_f__mutmut_2", "survived", "a.py", DIFF),
    Mutant("m.x_g__mutmut_1", "timeout", "b.py"),
]


def test_survivors_keep_their_reasons():
    """By function and change, whatever their number."""
    before, after = change_of(DIFF)
    assert (before, after) == ("return min( a | b, 1)", "return min( a | b, 2)")
    found = summary(MUTANTS, {})
    assert found["files"] == {
        "a.py": {"mutants": 2, "noticed": 1},
        "b.py": {"mutants": 1, "noticed": 1},
    }
    (survivor,) = found["survivors"]
    assert (survivor["function"], survivor["reason"]) == ("m.x_f", "")
    survivor["reason"] = "2 and 1 are the same here"
    again = summary([Mutant("m.x_f__mutmut_9", "survived", "a.py", DIFF)], reasons(found))
    assert again["survivors"][0]["reason"] == "2 and 1 are the same here"
    lines = table(found).splitlines()
    assert "| all | 3 | 2 | 66.7 % |" in lines
    assert lines[-1].startswith("| m.x_f | `return min( a \\| b, 1)` |")
    assert lines[-1].endswith("| 2 and 1 are the same here |")


def test_enough_changes_are_noticed_and_every_other_has_a_reason():
    """The committed numbers, and the document made of them."""
    found = json.loads(JSON_PATH.read_text(encoding="utf-8"))
    mutants, noticed = (
        sum(one[key] for one in found["files"].values()) for key in ("mutants", "noticed")
    )
    assert noticed / mutants >= REQUIRED
    assert mutants - noticed == len(found["survivors"])
    assert [one for one in found["survivors"] if not one["reason"]] == []
    document = Path(__file__).parents[1] / "docs" / "mutants.md"
    assert table(found) in document.read_text(encoding="utf-8")

"""mutmut's command without its changes of strings, for :mod:`benchmarks.mutants`.

A process of its own that imports nothing of the package, of which mutmut makes a changed copy.
"""

from typing import Any

from mutmut.__main__ import cli
from mutmut.mutation import mutators

if __name__ == "__main__":
    operators: Any = mutators.mutation_operators
    operators[:] = [one for one in operators if one[1] is not mutators.operator_string]
    cli()

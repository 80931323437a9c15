"""What a result depends on beside the code: which versions are installed, and the processor."""

import contextlib
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# Both install the module pybullet. PyPI has wheels of the first up to Python 3.11; the second, a
# fork of the same engine that is built without NumPy, has them for 3.12 and newer.
PYBULLETS = ("pybullet", "pybullet-arm64")


def installed(name: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def pybullet_name() -> str:
    """Return which distribution of PyBullet is installed.

    Raises:
        ImportError: there are two, which overwrite each other's files.
    """
    found = [name for name in PYBULLETS if installed(name) is not None]
    if len(found) > 1:
        raise ImportError(
            f"{' and '.join(found)} are both installed and overwrite each other's files:"
            f" pip uninstall -y {' '.join(found)}, then install one of them"
        )
    return found[0] if found else PYBULLETS[0]


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """Return the versions of Python and of some distributions, None where one is not installed."""
    found = {name: installed(pybullet_name() if name == "pybullet" else name) for name in names}
    return {"python": platform.python_version(), **found}


def processor() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()

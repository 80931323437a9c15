"""``bullet-envs doctor``: what is installed here, and what to do about what is missing."""

import os
import platform
import sys
from pathlib import Path

from . import __version__
from .cores import count_cores
from .versions import PYBULLETS, installed, pybullet_name


def main() -> int:
    """Print a line for each thing, and return 1 if one is missing that everything needs."""
    report, is_well = examine()
    width = max(map(len, report))
    for name, text in report.items():
        print(f"{name:<{width}}  {text}")
    return 0 if is_well else 1


def examine() -> tuple[dict[str, str], bool]:
    """Return what there is of each thing by name, and whether environments can run."""
    engine, is_well = _engine()
    report = {
        "bullet-envs": f"{__version__} in {Path(__file__).parent}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "libraries": _versions("gymnasium", "numpy"),
        "PyBullet": engine,
        "renderer": _renderer() if is_well else "none without PyBullet",
        "display": _display(),
        "ffmpeg": _ffmpeg(),
        "cores": _cores(),
        "agents": _agents(),
        "Ray": installed("ray") or "not installed; nothing here needs it",
    }
    return report, is_well


def _versions(*names: str) -> str:
    return ", ".join(f"{name} {installed(name)}" for name in names)


def _engine() -> tuple[str, bool]:
    try:
        from .engine.silence import p

        name = pybullet_name()
    except ImportError as error:
        if "both installed" in str(error):
            return str(error), False
        name = PYBULLETS[sys.version_info >= (3, 12)]
        return f"cannot be imported ({error}): pip install {name}", False
    images = "images as arrays"
    if not p.isNumpyEnabled():
        images = "built without NumPy: images take up to twice as long"
    return f"{name} {installed(name)}, {images}", True


def _renderer() -> str:
    from .engine.egl import require_egl

    try:
        require_egl()
    except RuntimeError as error:
        return f"tiny (software, the default); egl not: {str(error).partition(': ')[2]}"
    return "tiny (software, the default) and egl"


def _display() -> str:
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return os.environ.get("DISPLAY") or "of the system"
    return "none (DISPLAY is not set): render_mode='rgb_array' and videos work, 'human' does not"


def _ffmpeg() -> str:
    from .mp4 import RecordingError, find_ffmpeg

    try:
        return find_ffmpeg()
    except RecordingError as error:
        return str(error)


def _cores() -> str:
    usable, physical = count_cores(), count_cores(physical=True)
    return f"{os.cpu_count()}, of which this process may use {usable}: workers='auto' is {physical}"


def _agents() -> str:
    names = ("torch", "stable-baselines3", "safetensors", "scipy")
    if missing := [name for name in names if installed(name) is None]:
        return f"{', '.join(missing)} not installed: pip install 'bullet-envs[agents]'"
    return _versions(*names[:2])

"""Builds the wheel from what git knows, and uses it outside of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, path=(), **environ):
    """Run a command with folders to import from, and show its output where it fails."""
    paths = os.pathsep.join(map(str, path))
    environ = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environ}
    done = subprocess.run(
        command, cwd=cwd, env=environ, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build_wheel(copy):
    """Build it in an empty folder.

    A copy, so that setuptools leaves no build/ in the checkout and sees no ignored file.
    """
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():  # git lists a file deleted but not committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=copy)
    [built] = (copy / "dist").glob("*.whl")
    return built


def install(what, cwd, *flags, python=sys.executable):
    """Install a wheel or a folder, without its dependencies and without a network."""
    flags = ("-q", "--no-deps", "--no-index", "--no-build-isolation", *map(str, flags))
    pip = (sys.executable, "-m", "pip", "--python", str(python))
    run(*pip, "install", *flags, str(what), cwd=cwd)


def make_venv(folder, wheel, *packages):
    """Return the Python of a new virtual environment with a wheel.

    Args:
        folder: where it is made.
        wheel: what is installed.
        packages: folders with all else that can be imported.
    """
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder.parent)
    python = folder / "bin" / "python"
    install(wheel, folder, python=python)
    # Written last: pip takes what these folders have for installed.
    [site] = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("".join(f"{path}\n" for path in packages))
    return python

"""``bullet-envs new``: a package with a robot and task of one's own, to be changed."""

import importlib.util
import keyword
import re
import tempfile
from pathlib import Path

import gymnasium as gym

import bullet_envs

EXAMPLE = Path(__file__).with_name("planar_arm")


def write_package(name: str, parent: Path) -> Path:
    """Write a package that works as it stands: task, URDF, pyproject and tests of a planar arm.

    Args:
        name: of the package, and of the new folder in ``parent``; the ids are its words joined.
        parent: an existing folder.

    Returns:
        The new folder.

    Raises:
        ValueError: the name is no name of a package, or an installed one has it.
        FileExistsError: there is such a folder already.
        OSError: the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name) or keyword.iskeyword(name):
        raise ValueError(
            f"NAME {name!r} must be 1 to 50 of a-z 0-9 _, begin with a letter, and be no keyword"
        )
    folder = parent / name
    if folder.exists():
        raise FileExistsError(f"{folder} exists already: choose another name")
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:  # without an origin it is a mere folder
        raise ValueError(f"NAME {name!r} is that of an installed package: choose another")
    title = "".join(map(str.capitalize, name.split("_")))
    if title in bullet_envs.__all__ or f"{title}-v0" in gym.registry:
        raise ValueError(f"NAME {name!r} makes {title}, which is taken: choose another")
    words = {EXAMPLE.name: name, "PlanarArm": title}
    try:
        # Renamed when it is complete, so that nothing is left half-written.
        with tempfile.TemporaryDirectory(dir=parent) as temporary:
            part = Path(temporary) / name
            for source in sorted(EXAMPLE.rglob("*")):
                if source.is_file() and source.suffix != ".pyc":
                    target = part / _renamed(str(source.relative_to(EXAMPLE)), words)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(_renamed(source.read_text("utf-8"), words), "utf-8")
            part.rename(folder)
    except OSError as error:
        raise OSError(f"cannot write {folder}: {(error.strerror or str(error)).lower()}") from None
    return folder


def _renamed(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text

"""URDF models. Masses, sizes and inertias of every body live in these files and nowhere else."""

from pathlib import Path


def path(name: str) -> Path:
    """Return the absolute path of an asset, e.g. ``path("ball.urdf")``."""
    return Path(__file__).parent / name

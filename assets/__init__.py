"""URDF models. Masses, sizes and inertias of every body live in these files and nowhere else."""

import functools
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Link:
    """What a URDF says of a link.

    Args:
        mass: kg.
        inertia: moments about the link's own x, y and z through its centre of mass (kg·m²).
        centre: position of the centre of mass in the link's frame (m).
        size: sides of its first box, or the radius of its first sphere (m).
    """

    mass: float
    inertia: tuple[float, ...]
    centre: tuple[float, ...]
    size: tuple[float, ...]


def path(name: str) -> Path:
    """Return the absolute path of an asset, e.g. ``path("ball.urdf")``."""
    return Path(__file__).parent / name


@functools.cache
def links(name: str) -> dict[str, Link]:
    """Return the links of an asset by name."""
    root = ElementTree.parse(path(name)).getroot()
    return {link.attrib["name"]: _link(link) for link in root.findall("link")}


def _link(element: ElementTree.Element) -> Link:
    def numbers(tag: str, *attributes: str, default: str = "0 0 0") -> tuple[float, ...]:
        found = element.find(tag)
        texts = [default if found is None else found.attrib[name] for name in attributes]
        return tuple(float(word) for text in texts for word in text.split())

    first = element.find("visual/geometry")
    sphere = first is not None and first.find("sphere") is not None
    return Link(
        mass=numbers("inertial/mass", "value")[0],
        inertia=numbers("inertial/inertia", "ixx", "iyy", "izz"),
        centre=numbers("inertial/origin", "xyz"),
        size=numbers("visual/geometry/sphere", "radius")
        if sphere
        else numbers("visual/geometry/box", "size"),
    )

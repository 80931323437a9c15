"""URDF files: what they say of links, and the rewritten copy that a contact-free robot loads.

This file does not import PyBullet.
"""

import functools
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
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
        collision_size: sides of its first collision box, radius and length of its first collision
            cylinder, or radius of its first collision sphere (m); empty where it has none.
        visual_size: the same of its first visual shape.
    """

    mass: float
    inertia: tuple[float, ...]
    centre: tuple[float, ...]
    collision_size: tuple[float, ...]
    visual_size: tuple[float, ...]


@functools.cache
def read_links(path: str | os.PathLike[str]) -> dict[str, Link]:
    """Return the links of a URDF by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a URDF.
    """
    return {link.attrib["name"]: _link(link) for link in _parse(path).findall("link")}


@dataclass(frozen=True)
class Joint:
    """What a URDF says of a joint.

    Args:
        origin: where it is in the frame of its parent link: x, y, z (m).
        lower: its lower limit (m or rad), -inf without one.
        upper: its upper limit (m or rad), inf without one.
        effort: the greatest force (N) or torque (N·m); Bullet applies it to motors only.
        damping: viscous, N·s/m or N·m·s/rad.
        friction: Coulomb, N or N·m.
    """

    origin: tuple[float, ...]
    lower: float
    upper: float
    effort: float
    damping: float
    friction: float


@functools.cache
def read_joints(path: str | os.PathLike[str]) -> dict[str, Joint]:
    """Return the joints of a URDF by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a URDF.
    """
    return {joint.attrib["name"]: _joint(joint) for joint in _parse(path).findall("joint")}


def _parse(path: str | os.PathLike[str]) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{os.fspath(path)} is not a URDF: {error}") from None


def _link(element: ElementTree.Element) -> Link:
    return Link(
        mass=_numbers(element, "inertial/mass", "value", default="0")[0],
        inertia=_numbers(element, "inertial/inertia", "ixx", "iyy", "izz"),
        centre=_numbers(element, "inertial/origin", "xyz"),
        collision_size=_size(element.find("collision/geometry")),
        visual_size=_size(element.find("visual/geometry")),
    )


def _joint(element: ElementTree.Element) -> Joint:
    limited = element.find("limit") is not None and element.get("type") != "continuous"
    lower, upper = _numbers(element, "limit", "lower", "upper", default="0") if limited else (0, 0)
    if lower >= upper:  # Bullet takes this for no limit
        lower, upper = -math.inf, math.inf
    return Joint(
        origin=_numbers(element, "origin", "xyz"),
        lower=lower,
        upper=upper,
        effort=_numbers(element, "limit", "effort", default="0")[0],
        damping=_numbers(element, "dynamics", "damping", default="0")[0],
        friction=_numbers(element, "dynamics", "friction", default="0")[0],
    )


def _numbers(
    element: ElementTree.Element, tag: str, *attributes: str, default: str = "0 0 0"
) -> tuple[float, ...]:
    found = element.find(tag)
    texts = [default] if found is None else [found.get(name, default) for name in attributes]
    return tuple(float(word) for text in texts for word in text.split())


def _size(geometry: ElementTree.Element | None) -> tuple[float, ...]:
    if geometry is None:
        return ()
    for tag, attributes in (
        ("box", ("size",)),
        ("cylinder", ("radius", "length")),
        ("sphere", ("radius",)),
    ):
        if geometry.find(tag) is not None:
            return _numbers(geometry, tag, *attributes)
    return ()


@contextmanager
def stretched(urdf: Path, link: str, shares: Sequence[float]) -> Iterator[Path]:
    """Write a URDF with a link of another size, of the same mass.

    Args:
        urdf: the file.
        link: of which boxes, spheres and their places are stretched, and the centre of mass.
            Inertia stays as it is.
        shares: of its size along its x, y and z; spheres take the first.
    """
    if all(share == 1 for share in shares):
        yield urdf
        return
    robot = _parse(urdf)
    (element,) = (one for one in robot.findall("link") if one.attrib["name"] == link)
    for tag, attribute in (("origin", "xyz"), ("box", "size")):
        for one in element.iter(tag):
            numbers = map(float, one.get(attribute, "0 0 0").split())
            scaled = (number * share for number, share in zip(numbers, shares, strict=True))
            one.set(attribute, " ".join(map(repr, scaled)))
    for sphere in element.iter("sphere"):
        sphere.set("radius", repr(float(sphere.attrib["radius"]) * shares[0]))
    with _written(robot, urdf) as path:
        yield path


@contextmanager
def contact_free(urdf: Path, copies: int) -> Iterator[Path]:
    """Write a URDF that Bullet steps faster, for a robot that touches nothing and has no limits.

    All but the base, the first link, is there ``copies`` times. Bullet keeps a box around every
    link and sorts it into a search tree as it moves. Each link is therefore given an infinite plane
    for a collision shape: a box of that size makes Bullet leave the link out of its collisions, and
    solve no constraints of a body all of whose moving links are left out; the body moves as before.
    A link without a visual shape would be drawn as the plane and gets none.

    Raises:
        ValueError: a link has a collision shape, or a joint has limits, damping or friction.
    """
    for name, joint in read_joints(urdf).items():
        if math.isfinite(joint.lower) or joint.damping or joint.friction:
            raise ValueError(f"{urdf}: joint {name!r} has limits, damping or friction")
    robot = _parse(urdf)
    base, *links = robot.findall("link")
    joints = robot.findall("joint")
    for link in (base, *links):
        if link.find("collision") is not None:
            raise ValueError(f"{urdf}: link {link.attrib['name']!r} has a collision shape")
        if link.find("visual") is not None:
            everywhere = ElementTree.SubElement(link, "collision")
            geometry = ElementTree.SubElement(everywhere, "geometry")
            ElementTree.SubElement(geometry, "plane", normal="0 0 1")
    for mesh in robot.iter("mesh"):
        mesh.set("filename", os.fspath(urdf.parent.absolute() / mesh.attrib["filename"]))
    for copy in range(1, copies):
        for original in (*links, *joints):
            part = deepcopy(original)
            part.set("name", name_of_copy(original.attrib["name"], copy))
            for end in (*part.findall("parent"), *part.findall("child")):
                if end.attrib["link"] != base.attrib["name"]:
                    end.set("link", name_of_copy(end.attrib["link"], copy))
            robot.append(part)
    with _written(robot, urdf) as path:
        yield path


@contextmanager
def _written(robot: ElementTree.Element, urdf: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / urdf.name
        ElementTree.indent(robot)  # Bullet's parser fails on very long lines
        ElementTree.ElementTree(robot).write(path)
        yield path


def name_of_copy(name: str, copy: int) -> str:
    """Return the name of a link or joint in the n-th copy."""
    return f"{name}-{copy}" if copy else name

"""A pinhole camera."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import dataclass

import numpy as np

RENDERERS = ("tiny", "egl")


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Args:
        eye: position (m).
        target: the point in the middle of the image (m).
        fov: vertical field of view (degrees).
        width: pixels.
        height: pixels.
        light: direction towards the light.
        shadow: whether bodies cast shadows, ten times as slow.
        up: a direction that points up in the image; where that is the line of sight, y does in
            place of z, or z in place of y.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float
    width: int = 960
    height: int = 540
    light: tuple[float, float, float] = (-0.15, -0.25, 1.0)
    shadow: bool = True
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    @functools.cached_property
    def _axes(self) -> list[list[float]]:
        """The directions right, up and back, a row each."""
        forward = np.array(self.target) - np.array(self.eye)
        forward /= np.linalg.norm(forward)
        x, y, z = self.up
        right = np.cross(forward, self.up)
        if np.linalg.norm(right) < 1e-6:
            right = np.cross(forward, (x, z, y))
        right /= np.linalg.norm(right)
        axes: list[list[float]] = np.array([right, np.cross(right, forward), -forward]).tolist()
        return axes

    @functools.cached_property
    def _rotation(self) -> list[float]:
        """The first three columns of the view matrix."""
        return [number for column in zip(*self._axes, strict=True) for number in (*column, 0.0)]

    def view(self, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[float]:
        """Return the OpenGL view matrix, column-major, of the camera moved by ``shift`` (m)."""
        # Every observation needs one: floats take 1 microsecond, arrays 5.
        x, y, z = map(operator.add, self.eye, shift)
        moved = [-(a * x + b * y + c * z) for a, b, c in self._axes]
        return [*self._rotation, *moved, 1.0]

    def part(self, left: int, top: int, width: int, height: int) -> list[float]:
        """Return the projection matrix of a part of the image (pixels), column-major."""
        matrix = np.array(self.projection).reshape(4, 4).T
        x = (2 * left + width) / self.width - 1
        y = 1 - (2 * top + height) / self.height
        matrix[0] = (matrix[0] - x * matrix[3]) * (self.width / width)
        matrix[1] = (matrix[1] - y * matrix[3]) * (self.height / height)
        values: list[float] = matrix.T.ravel().tolist()
        return values

    @functools.cached_property
    def projection(self) -> list[float]:
        """Return the OpenGL projection matrix, column-major."""
        near, far = 0.05, 50.0
        scale = 1 / math.tan(math.radians(self.fov) / 2)
        matrix = np.zeros((4, 4))
        matrix[0, 0] = scale * self.height / self.width
        matrix[1, 1] = scale
        matrix[2, 2] = (far + near) / (near - far)
        matrix[2, 3] = 2 * far * near / (near - far)
        matrix[3, 2] = -1
        values: list[float] = matrix.T.ravel().tolist()
        return values

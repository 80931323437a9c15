"""What stands behind a robot in a video: a floor with a grid, a horizon, and the robot's shadow.

TinyRenderer would take a quarter of a second for such a scene, and leave its edges jagged. So it
draws the robot alone, half as large again, and Pillow puts it before a floor that is drawn once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from .camera import Camera

SUPERSAMPLING = 1.5
SKY, HORIZON, FLOOR, LINE = (217, 226, 238), (243, 245, 248), (219, 224, 231), (190, 198, 209)
SHADOW = 0.38  # how much of the light it takes
SHADOW_BLUR = 0.006  # of the height of the image
LINES = 10  # of the grid, between the camera and what it looks at

Array = npt.NDArray[np.float64]


@functools.lru_cache(maxsize=8)
def floor_image(camera: Camera, height: float) -> Image.Image:
    """Return what a camera sees where there is no robot.

    Args:
        camera: where and how large.
        height: of the floor (m).
    """
    origin, direction, up = _rays(camera)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = (height - origin[2]) / direction[..., 2]
        seen = reach > 0
        x, y = (origin[axis] + reach * direction[..., axis] for axis in (0, 1))
    distance = math.dist(camera.eye, camera.target)
    pitch = grid_pitch(distance / LINES)
    lines = np.maximum(_lines(x, pitch), _lines(y, pitch))[..., None]
    floor = np.array(FLOOR) + lines * (np.array(LINE, float) - FLOOR)
    # The floor fades into the horizon, where lines would flicker.
    haze = np.clip(reach / distance / 4 - 0.4, 0, 1)[..., None]
    floor += haze * (np.array(HORIZON) - floor)
    sky = HORIZON + np.clip(3 * up, 0, 1)[..., None] * (np.array(SKY, float) - HORIZON)
    pixels = np.where(seen[..., None], floor, sky)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _rays(camera: Camera) -> tuple[Array, Array, Array]:
    """Return the eye, the direction through each pixel, and its tangent above the horizon.

    Directions have length 1 along the line of sight.
    """
    rotation = np.array(camera.view()).reshape(4, 4).T[:3, :3]
    tangent = math.tan(math.radians(camera.fov) / 2)
    width, height = camera.width, camera.height
    right = (np.arange(width) + 0.5 - width / 2) * 2 * tangent / height
    above = (height / 2 - np.arange(height) - 0.5) * 2 * tangent / height
    direction = right[None, :, None] * rotation[0] + above[:, None, None] * rotation[1]
    direction = direction - rotation[2]
    up = direction[..., 2] / np.hypot(direction[..., 0], direction[..., 1])
    return np.array(camera.eye), direction, up


def grid_pitch(length: float) -> float:
    """Return the 1, 2 or 5 times a power of ten that is nearest to a length (m)."""
    power = 10.0 ** math.floor(math.log10(length))
    return min((power * n for n in (1, 2, 5, 10)), key=lambda pitch: abs(math.log(pitch / length)))


def _lines(coordinate: Array, pitch: float) -> Array:
    """Return how much of each pixel a grid line covers, less where lines are close together."""
    with np.errstate(invalid="ignore"):
        pixel = np.hypot(*np.gradient(coordinate))
        off = np.abs((coordinate / pitch + 0.5) % 1 - 0.5) * pitch
        cover = np.clip(1.1 - off / pixel, 0, 1) * np.clip(pitch / pixel / 8, 0, 1)
    lines: Array = np.nan_to_num(cover)
    return lines


def shadow_view(camera: Camera, height: float) -> list[float]:
    """Return the view matrix with which a camera sees bodies pressed onto the floor by the light.

    Blinn, "Me and my (fake) shadow", 1988: for a light at infinity that is an affine map.
    """
    x, y, z = camera.light
    flat = np.eye(4)
    flat[:3, 2] = -x / z, -y / z, 0
    flat[:3, 3] = x / z * height, y / z * height, height
    view: list[float] = (np.array(camera.view()).reshape(4, 4).T @ flat).T.ravel().tolist()
    return view


def compose(
    camera: Camera,
    height: float,
    parts: Iterable[tuple[tuple[int, int], npt.NDArray[np.uint8]]],
    shadow: tuple[tuple[int, int], npt.NDArray[np.uint8]] | None,
) -> npt.NDArray[np.uint8]:
    """Return a frame, uint8 of shape (height, width, 3).

    Args:
        camera: of the frame.
        height: of the floor (m).
        parts: of the frame that show the robot: column and row of the first pixel, and red, green,
            blue and opacity, ``SUPERSAMPLING`` times as large, uint8 of shape (rows, columns, 4).
        shadow: of a part of the frame, half as large: column and row of its first pixel, and 255
            where there is one and 0 elsewhere; None for none.
    """
    frame = floor_image(camera, height).copy()
    if shadow is not None:
        corner, dark = shadow[0], Image.fromarray(shadow[1])
        dark = dark.filter(ImageFilter.GaussianBlur(SHADOW_BLUR * camera.height / 2))
        dark = dark.point(lambda one: SHADOW * one)
        dark = dark.resize((2 * dark.width, 2 * dark.height), Image.Resampling.BILINEAR)
        frame.paste((0, 0, 0), corner, dark)
    for corner, robot in parts:
        size = tuple(round(side / SUPERSAMPLING) for side in robot.shape[1::-1])
        smooth = Image.fromarray(robot).resize(size, Image.Resampling.HAMMING)
        frame.paste(smooth, corner, smooth)
    return np.asarray(frame)

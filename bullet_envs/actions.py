"""From actions to commands of actuators, for one sub-environment and for many."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .checks import shorten

if TYPE_CHECKING:
    from .task import Task

Command = tuple[float, ...]


class ActionDecoder:
    """Checks actions and scales them to commands in SI units.

    Box values beyond [-1, 1] are clipped, as Gymnasium's own environments do.

    Args:
        task: whose actions to decode.
        num_envs: how many actions :meth:`decode_many` takes.
    """

    def __init__(self, task: Task, num_envs: int = 1) -> None:
        self._scales = [float(actuator.scale) for actuator in task.actuators]
        self._centres = [float(actuator.centre) for actuator in task.actuators]
        self._is_centred = not any(self._centres)
        self._width = width = len(self._scales)
        self._discrete: list[Command] | None = None
        self._shape: tuple[int, ...] = (num_envs, width)
        legal = f"{width} finite numbers from -1 to 1, shape ({width},)"
        if isinstance(task.action_space, spaces.Discrete):
            assert task.discrete_actions is not None
            self._discrete = [self._scaled(shares) for shares in task.discrete_actions]
            self._table = np.array(self._discrete)
            self._shape = (num_envs,)
            legal = f"a whole number from 0 to {len(self._discrete) - 1}"
        self._legal = legal
        self._legal_many = f"{num_envs} of: {legal}"

    def _scaled(self, shares: Any) -> Command:
        if self._is_centred:
            return tuple([a * b for a, b in zip(self._scales, shares, strict=True)])
        return tuple(
            [c + a * b for c, a, b in zip(self._centres, self._scales, shares, strict=True)]
        )

    def decode(self, action: Any) -> Command:
        """Return the commands of one action.

        Raises:
            TypeError: the action is of the wrong type.
            ValueError: the action is out of range, of the wrong shape or not finite.
        """
        discrete = self._discrete
        if discrete is None:
            return self._decode_box(action)
        if action.__class__ is int and 0 <= action < len(discrete):  # most often, and quickest
            return discrete[action]
        try:
            index = operator.index(action)
        except TypeError:
            index = None
        if index is None or action.__class__ is bool:  # an int in Python, and none in NumPy
            raise TypeError(f"action {shorten(action)} must be {self._legal}")
        if 0 <= index < len(discrete):
            return discrete[index]
        raise ValueError(f"action {shorten(action)} must be {self._legal}")

    def _decode_box(self, action: Any) -> Command:
        try:
            array = np.asarray(action)
        except ValueError:
            raise ValueError(f"action {shorten(action)} must be {self._legal}") from None
        if array.dtype.kind not in "fiu":
            raise TypeError(f"action {shorten(action)} must be {self._legal}")
        values = array.tolist()
        if array.shape != (self._width,) or not all(map(math.isfinite, values)):
            raise ValueError(f"action {shorten(action)} must be {self._legal}")
        return self._scaled([min(1.0, max(-1.0, value)) for value in values])

    def decode_many(self, actions: Any) -> npt.NDArray[np.float64]:
        """Return the commands of many actions, shape (num_envs, actuators).

        Raises:
            TypeError: the actions are of the wrong type.
            ValueError: the actions are out of range, of the wrong shape or not finite.
        """
        try:
            array = np.asarray(actions)
        except ValueError:
            raise ValueError(f"actions of different lengths must be {self._legal_many}") from None
        if isinstance(actions, list | tuple) and any(type(a) in (bool, np.bool_) for a in actions):
            raise TypeError(f"actions {shorten(actions)} must be {self._legal_many}")
        if array.dtype.kind not in ("fiu" if self._discrete is None else "iu"):
            raise TypeError(f"actions of dtype {array.dtype} must be {self._legal_many}")
        if array.shape != self._shape:
            raise ValueError(f"actions of shape {array.shape} must be {self._legal_many}")
        if self._discrete is not None:
            self._refuse((array < 0) | (array >= len(self._discrete)), array)
            return self._table.take(array, axis=0)
        self._refuse(~np.isfinite(array).all(axis=1), array)
        shares = np.clip(array.astype(np.float64), -1.0, 1.0)
        scaled: npt.NDArray[np.float64] = np.array(self._scales) * shares
        return scaled if self._is_centred else np.array(self._centres) + scaled

    def _refuse(self, wrong: npt.NDArray[np.bool_], actions: npt.NDArray[Any]) -> None:
        """Refuse the actions of some sub-environments, and name the first of these."""
        if np.count_nonzero(wrong):  # faster than any
            index = int(wrong.argmax())
            action = shorten(actions[index].tolist())
            raise ValueError(f"actions[{index}]={action} must be {self._legal}")

"""Checks of what users pass, and how errors show it."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

SHOWN = 80  # characters of a value in an error


def shorten(value: Any) -> str:
    """Return ``repr(value)`` in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def require(
    name: str, value: Any, low: float, high: float, unit: str = "", whole: bool = False
) -> None:
    """Refuse a value that is not a number, or a whole one, from ``low`` to ``high``.

    Raises:
        TypeError: it is no such number.
        ValueError: it is out of the range.
    """
    if type(value) is float and not whole and low <= value <= high:
        return  # the same as below, faster: drawn parameters make new actuators at every reset
    kind, word = (Integral, "whole number") if whole else (Real, "number")
    is_one = isinstance(value, kind) and not isinstance(value, bool)
    if is_one and low <= value <= high:
        return
    wrong = f"{name}={shorten(value)} must be a {word} from {low:g} to {high:g} {unit}".rstrip()
    raise (ValueError if is_one else TypeError)(wrong)


def require_disabled(envs: VectorEnv[Any, Any, Any], user: str) -> None:
    """Refuse a vector environment that begins episodes by itself.

    Raises:
        ValueError: its autoreset mode is not DISABLED.
    """
    from gymnasium.vector import AutoresetMode  # late, since single environments need no 1.1

    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.DISABLED:
        raise ValueError(
            f"{user} needs a vector environment with autoreset_mode='Disabled', not {mode}"
        )

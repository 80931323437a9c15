"""Perturbations made larger or smaller by one number, as data.

Presets, and the perturbation at which an agent fails, are found on such a scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .task import Task


def scaled(
    perturbations: Mapping[str, Any], scale: float, task: Task | None = None
) -> dict[str, Any]:
    """Return perturbations that are ``scale`` times as large.

    Distances from the nominal value are multiplied: of parameters that are drawn with
    ``"operation": "scale"`` from 1 (with ``log_uniform`` in the logarithm), with ``"add"`` from 0;
    noise, bias, dead zones, probabilities, forces and impulses. Delays are rounded down. What has
    no nominal value stays as it is: absolute parameters, saturation, times and rates.

    Args:
        perturbations: what an environment takes by that keyword.
        scale: 0 or more; 0 perturbs nothing but what stays as it is.
        task: at whose legal values parameters are cut; None where none comes near them.
    """
    parts = {name: dict(part) for name, part in perturbations.items() if name != "pushes"}
    result: dict[str, Any] = {}
    if "parameters" in parts:
        result["parameters"] = {
            name: _parameter(name, given, scale, task)
            for name, given in parts["parameters"].items()
        }
    for part in ("actions", "observations", "images"):
        if part in parts:
            result[part] = {name: _entry(name, given, scale) for name, given in parts[part].items()}
    if "pushes" in perturbations:
        result["pushes"] = [
            {
                name: _distribution(given, 0.0, scale) if name in ("force", "impulse") else given
                for name, given in push.items()
            }
            for push in perturbations["pushes"]
        ]
    return result


def _parameter(name: str, given: Any, scale: float, task: Task | None) -> Any:
    centres = {"scale": 1.0, "add": 0.0}
    operation = given.get("operation") if isinstance(given, Mapping) else None
    if operation not in centres:
        return given
    result = _distribution(given, centres[operation], scale)
    if task is not None:
        (parameter,) = (one for one in task.parameters if one.name == name)
        nominal = getattr(task, name)
        low, high = (
            limit / nominal if operation == "scale" else limit - nominal
            for limit in (parameter.low, parameter.high)
        )
        for kind in ("uniform", "log_uniform", "normal"):
            if kind in result:
                *first, least, most = result[kind]
                result[kind] = [*first, max(least, low), min(most, high)]
    return result


def _entry(name: str, given: Any, scale: float) -> Any:
    if name == "delay":
        return math.floor(given * scale + 1e-9)
    if name in ("dropped", "stuck"):
        return {**given, "probability": min(1.0, given.get("probability", 0.0) * scale)}
    if name == "brightness":
        return _distribution(given, 1.0, scale)
    if name == "saturation":
        return given
    if isinstance(given, Mapping):
        return {column: _distribution(of, 0.0, scale) for column, of in given.items()}
    return given * scale


def _distribution(given: Any, centre: float, scale: float) -> Any:
    """Return a distribution, or a number, whose distance from a centre is scaled."""
    if not isinstance(given, Mapping):
        return _scaled_number(given, centre, scale)
    result = dict(given)
    for kind in ("uniform", "log_uniform"):
        if kind in given:
            result[kind] = [
                one**scale if kind == "log_uniform" else _scaled_number(one, centre, scale)
                for one in given[kind]
            ]
    if "normal" in given:
        mean, std, low, high = given["normal"]
        mean, low, high = (_scaled_number(one, centre, scale) for one in (mean, low, high))
        result["normal"] = [mean, std * scale, low, high]
    return result


def _scaled_number(number: float, centre: float, scale: float) -> float:
    return centre + (number - centre) * scale

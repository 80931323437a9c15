"""Agents on disk: a JSON card and a file of weights, read without running anything."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..camera import RENDERERS
from .checkpoints import CheckpointError, read_regular, write_atomically
from .environment import RESERVED_KEYWORDS

SCHEMA_VERSION = 1
IDENTITY = (
    *("schema_version", "algo", "env_id", "env_kwargs", "renderer", "frame_stack"),
    *("action_repeat", "observe_actions", "hold_dropped", "hidden", "weights", "sha256"),
)


def write_card(
    path: Path,
    entries: Mapping[str, Any],
    facts: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> str:
    """Write weights and the card that names them, and return the SHA-256 of the weights.

    Args:
        path: of the card, ``….json``; the weights are written beside it.
        entries: the identity of the agent, without schema, weights and hash.
        facts: remarks about its training.
        weights: of its network.
    """
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    content = save(copies)
    sha256 = hashlib.sha256(content).hexdigest()
    # A name of its own, so that being stopped between the two files leaves the old pair whole.
    weights_path = path.with_name(f"{path.stem}-{sha256[:8]}.safetensors")
    card = {
        "schema_version": SCHEMA_VERSION,
        **entries,
        "weights": weights_path.name,
        "sha256": sha256,
        **facts,
    }
    write_atomically(weights_path, content)
    write_atomically(path, (json.dumps(card, indent=2) + "\n").encode())
    for old in path.parent.glob(f"{path.stem}-????????.safetensors"):
        if old != weights_path:
            old.unlink()
    return sha256


def read_card(path: Path, algos: Sequence[str]) -> dict[str, Any]:
    """Return a checked card.

    Args:
        path: of the card.
        algos: the names of algorithms that are known.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not a card that this version can read.
    """
    if not path.exists():
        raise FileNotFoundError(f"no agent at {path}")
    try:
        card = json.loads(read_regular(path))
        sound = (
            card["schema_version"] == SCHEMA_VERSION
            and card["algo"] in algos
            and is_env_id(card["env_id"])
            and isinstance(card["env_kwargs"], dict)
            and card["renderer"] in (None, *RENDERERS)
            and isinstance(card["sha256"], str)
            and is_plain_name(card["weights"])
            and are_widths(card["hidden"])
            and isinstance(card["observe_actions"], bool)
            and isinstance(card["hold_dropped"], bool)
            and all(
                type(card[name]) is int and 1 <= card[name] <= most
                for name, most in (("frame_stack", 256), ("action_repeat", 64))
            )
            # No weight's shape depends on these. A trained agent's card says them twice.
            and all(
                {**card, **card.get("settings", {})}[name] == card[name]
                for name in ("env_kwargs", "action_repeat")
            )
        )
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} is not the card of an agent: {error!r}") from None
    if not sound:
        raise CheckpointError(f"{path} is not the card of an agent that this version can read")
    # These would change how the environment is made, not which one it is.
    if reserved := sorted(RESERVED_KEYWORDS & card["env_kwargs"].keys()):
        raise CheckpointError(f"{path} sets {', '.join(reserved)}, which a card may not")
    checked: dict[str, Any] = card
    return checked


def read_weights(path: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a card that :func:`read_card` has read.

    Args:
        path: of the card.
        card: its content.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    weights_path = path.with_name(card["weights"])
    try:
        content = read_regular(weights_path)
    except OSError as error:
        raise CheckpointError(f"{path} names weights that cannot be read: {error}") from None
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise CheckpointError(f"{weights_path} is damaged: its SHA-256 is not its card's")
    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{weights_path} is not a safetensors file: {error}") from None
    return weights


def is_env_id(value: object) -> bool:
    """Return whether a value looks like an id of Gymnasium's."""
    return isinstance(value, str) and 1 <= len(value) <= 200 and value.isprintable()


def is_plain_name(value: object) -> bool:
    """Return whether a value is the name of a weights file in the folder of its card."""
    if not isinstance(value, str):
        return False
    fits = len(value.encode()) <= 255  # raises ValueError for what no file can be called
    return (
        fits
        and Path(value).name == value
        and value.isprintable()
        and value.endswith(".safetensors")
    )


def are_widths(value: object) -> bool:
    """Return whether a value is a list of legal widths of hidden layers."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= 8
        and all(type(width) is int and 1 <= width <= 4096 for width in value)
    )

"""Agents with weights: how they are written, and how they are read without running anything."""

import hashlib
import itertools
import json
import platform
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from typing_extensions import Self

from .. import ENV_IDS
from ..camera import RENDERERS
from . import ALGOS
from .agent import Agent
from .checkpoints import CheckpointError, load_module, write_atomically
from .vision import Keypoints

SCHEMA_VERSION = 1
_IDENTITY = (
    *("schema_version", "algo", "env_id", "env_kwargs", "renderer", "frame_stack"),
    *("action_repeat", "hidden", "weights", "sha256"),
)


class LearnedAgent(Agent):
    """A policy network in an environment.

    Args:
        env_id: the id of its environment.
        env_kwargs: the keywords that its environment is made with.
        hidden: widths of the hidden layers.
        frame_stack: observations it sees at once.
        action_repeat: actions of the environment per action of its own.

    ``facts`` is what its card says of its training: seed, settings, steps, seconds, versions and
    returns.
    """

    network: nn.Module

    def __init__(
        self,
        env_id: str,
        env_kwargs: dict[str, Any] | None,
        hidden: tuple[int, ...],
        frame_stack: int = 1,
        action_repeat: int = 1,
    ) -> None:
        super().__init__(env_id, env_kwargs, frame_stack, action_repeat)
        self.hidden = hidden
        self.facts: dict[str, Any] = {}
        self.network = self.build()

    @property
    def time_limit(self) -> int:
        """The number of actions after which the environment truncates an episode."""
        limit = gym.spec(self.env_id).max_episode_steps
        assert limit is not None
        return limit

    @property
    def renderer(self) -> str | None:
        """What draws the pictures that the agent sees, None if it sees none."""
        if self.observation_space.dtype != np.uint8:
            return None
        return str(self.env_kwargs.get("renderer", "tiny"))

    def tensor(self, observations: npt.NDArray[Any]) -> torch.Tensor:
        """Return a batch of observations as the network takes it."""
        is_picture = self.observation_space.dtype == np.uint8
        return torch.as_tensor(observations, dtype=torch.uint8 if is_picture else torch.float32)

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a new network for the agent's spaces and widths."""

    def save(self, path: Path) -> None:
        """Write the weights, then the card that names them, with the agent's ``facts``.

        Args:
            path: of the card, ``….json``; the weights are written beside it.
        """
        weights = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in self.network.state_dict().items()
        }
        content = save(weights)
        sha256 = hashlib.sha256(content).hexdigest()
        # A name of its own, so that being stopped between the two files leaves the old pair whole.
        weights_path = path.with_name(f"{path.stem}-{sha256[:8]}.safetensors")
        identity = {
            "schema_version": SCHEMA_VERSION,
            "algo": self.algo,
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "renderer": self.renderer,
            "frame_stack": self.frame_stack,
            "action_repeat": self.action_repeat,
            "hidden": list(self.hidden),
            "weights": weights_path.name,
            "sha256": sha256,
        }
        write_atomically(weights_path, content)
        write_atomically(path, (json.dumps({**identity, **self.facts}, indent=2) + "\n").encode())
        for old in path.parent.glob(f"{path.stem}-????????.safetensors"):
            if old != weights_path:
                old.unlink()
        self.weights_hash = sha256

    @classmethod
    def load(cls, path: Path, card: dict[str, Any], env_kwargs: dict[str, Any]) -> Self:
        """Return the agent of a card that :func:`read_card` has read.

        Args:
            path: of the card.
            card: its content.
            env_kwargs: keywords of the environment beside those on the card.

        Raises:
            CheckpointError: the weights are missing, damaged or do not fit.
        """
        weights_path = path.with_name(card["weights"])
        try:
            content = weights_path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} names weights that cannot be read: {error}") from None
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise CheckpointError(f"{weights_path} is damaged: its SHA-256 is not its card's")
        try:
            weights = load(content)
        except SafetensorError as error:
            raise CheckpointError(f"{weights_path} is not a safetensors file: {error}") from None
        agent = cls(
            card["env_id"],
            {**card["env_kwargs"], **env_kwargs},
            tuple(card["hidden"]),
            card["frame_stack"],
            card["action_repeat"],
        )
        load_module(agent.network, weights)
        agent.facts = {name: fact for name, fact in card.items() if name not in _IDENTITY}
        agent.weights_hash = card["sha256"]
        return agent


class GreedyAgent(LearnedAgent):
    """A network whose largest output is the action."""

    def build(self) -> nn.Module:
        """Return a network from the observation to a number per Discrete action.

        Raises:
            ValueError: the environment's actions are not Discrete.
        """
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(f"{self.algo} needs Discrete actions, not {self.action_space}")
        return build_network(self.observation_space, self.hidden, int(self.action_space.n))

    def act(self, observations: npt.NDArray[Any], deterministic: bool) -> npt.NDArray[Any]:
        """Return the action with the largest output per row."""
        with torch.no_grad():
            outputs = self.network(self.tensor(observations))
        actions: npt.NDArray[Any] = outputs.argmax(dim=1).numpy()
        return actions


def build_network(space: gym.Space[Any], hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return a perceptron on the observation, or on the keypoints of a stack of pictures."""
    shape = space.shape or ()
    if len(shape) == 1:
        return mlp(shape[0], hidden, outputs)
    if len(shape) == 2:  # a stack of states
        return nn.Sequential(nn.Flatten(), mlp(shape[0] * shape[1], hidden, outputs))
    eyes = Keypoints(shape)
    return nn.Sequential(eyes, mlp(eyes.outputs, hidden, outputs))


def parameter_groups(
    network: nn.Module, learning_rate: float, eyes_learning_rate: float
) -> list[dict[str, Any]]:
    """Return what Adam is to learn and how fast, at first."""
    eyes = [
        parameter
        for part in network.modules()
        if isinstance(part, Keypoints)
        for parameter in part.parameters()
    ]
    rest = [one for one in network.parameters() if all(one is not other for other in eyes)]
    groups = [(rest, learning_rate), (eyes, eyes_learning_rate)]
    return [{"params": of, "lr": rate, "initial_lr": rate} for of, rate in groups if of]


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


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
        and 1 <= len(value) <= 8
        and all(type(width) is int and 1 <= width <= 4096 for width in value)
    )


def read_card(path: Path) -> dict[str, Any]:
    """Return a checked card.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not a card that this version can read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no agent at {path}")
    try:
        card = json.loads(path.read_text())
        sound = (
            card["schema_version"] == SCHEMA_VERSION
            and card["algo"] in ALGOS
            and card["env_id"] in ENV_IDS
            and isinstance(card["env_kwargs"], dict)
            and card["renderer"] in (None, *RENDERERS)
            and isinstance(card["sha256"], str)
            and is_plain_name(card["weights"])
            and are_widths(card["hidden"])
            and all(
                type(card[name]) is int and 1 <= card[name] <= 64
                for name in ("frame_stack", "action_repeat")
            )
            # No weight's shape depends on these. A trained agent's card says them twice.
            and all(
                {**card, **card.get("settings", {})}[name] == card[name]
                for name in ("env_kwargs", "action_repeat")
            )
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the card of an agent: {error!r}") from None
    if not sound:
        raise CheckpointError(f"{path} is not the card of an agent that this version can read")
    checked: dict[str, Any] = card
    return checked


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("bullet-envs", "gymnasium", "numpy", "pybullet", "stable-baselines3", "torch")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}

"""Reference agents: they demonstrate the environments, and prove that each can be solved."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ENV_IDS, PIXEL_IDS
from .agent import Agent

__all__ = [
    "ALGOS",
    "CONTROLLERS",
    "Agent",
    "Algorithm",
    "algorithm",
    "controllers_of",
    "load_agent",
    "pretrained_card",
]

# Each learned algorithm: its module, with PRESETS and train(), and the prefix of its classes there.
_MODULES = {
    "reinforce": ("reinforce", "Reinforce"),
    "dqn": ("dqn", "DQN"),
    "ppo": ("ppo_sb3", "PPO"),
}
ALGOS = tuple(_MODULES)
CONTROLLERS = ("lqr", "random")


def controllers_of(env_id: str) -> tuple[str, ...]:
    """Return the controllers for an id: the LQR needs to be told the state."""
    return tuple(name for name in CONTROLLERS if name != "lqr" or env_id not in PIXEL_IDS)


@dataclass(frozen=True)
class Algorithm:
    """A learned algorithm.

    Args:
        train: ``train(config, run)`` returns an agent.
        config: the class of its settings.
        agent: the class of its agents.
        presets: settings by environment id that differ from the defaults.
    """

    train: Callable[..., Any]
    config: Any
    agent: Any
    presets: dict[str, dict[str, Any]]


def algorithm(algo: str) -> Algorithm:
    """Return a learned algorithm by name.

    Raises:
        ValueError: there is no such algorithm.
    """
    if algo not in _MODULES:
        raise ValueError(f"algo={algo!r} must be one of {', '.join(ALGOS)}")
    name, prefix = _MODULES[algo]
    module = importlib.import_module(f".{name}", __name__)
    return Algorithm(
        module.train,
        getattr(module, f"{prefix}Config"),
        getattr(module, f"{prefix}Agent"),
        module.PRESETS,
    )


def pretrained_card(env_id: str, algo: str) -> Path:
    """Return where the card of a bundled agent is."""
    return Path(__file__).parent / "pretrained" / f"{env_id}-{algo}.json"


def load_agent(env_id: str, agent: str | os.PathLike[str], **env_kwargs: Any) -> Agent:
    """Return an agent with SB3's ``predict`` and with ``make_env``. No code in a file is run.

    Args:
        env_id: one of ``bullet_envs.ENV_IDS``.
        agent: a bundled agent (``"reinforce"``, ``"dqn"`` or ``"ppo"``), a controller (``"lqr"``
            or ``"random"``), or the path of a card (``best.json``) or of the folder of a run.
        **env_kwargs: keywords of the environment that ``make_env`` makes, beside those that the
            agent was trained with. The LQR is computed for them.

    Raises:
        ValueError: the id or the name is unknown, or the card is for another id.
        FileNotFoundError: there is nothing at the path.
        CheckpointError: the file is damaged or not an agent.
    """
    if env_id not in ENV_IDS:
        raise ValueError(f"env_id={env_id!r} must be one of {', '.join(ENV_IDS)}")
    if agent in CONTROLLERS:
        if agent not in controllers_of(env_id):
            raise ValueError(
                f"agent={agent!r} acts on the state and cannot see: use it on"
                f" {env_id.replace('Pixels', '')}, or one of {', '.join(ALGOS)} here"
            )
        from .controllers import LQR, RandomAgent

        return (LQR if agent == "lqr" else RandomAgent)(env_id, env_kwargs)
    from .learned import read_card

    if agent in ALGOS:
        path = pretrained_card(env_id, os.fspath(agent))
    else:
        path = Path(agent)
        if path.is_dir():
            path = path / "best.json"
        elif path.suffix != ".json":
            names = ", ".join((*ALGOS, *CONTROLLERS))
            raise ValueError(
                f"agent={os.fspath(agent)!r} must be one of {names}, a .json card or a run's folder"
            )
    card = read_card(path)
    if card["env_id"] != env_id:
        raise ValueError(f"{path} is an agent for {card['env_id']}, not for {env_id}")
    loaded: Agent = algorithm(card["algo"]).agent.load(path, card, env_kwargs)
    return loaded

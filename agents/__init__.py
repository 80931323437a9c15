"""Reference agents: they demonstrate the environments, and prove that each can be solved."""

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import registered
from ..registration import load_task
from .agent import Agent, new_agent
from .controllers import RandomPolicy
from .environment import EnvConfig, bare_id
from .policy import Policy

__all__ = [
    "ALGOS",
    "BUNDLED_ALGOS",
    "CONTROLLERS",
    "ROBUST",
    "Agent",
    "Algorithm",
    "EnvConfig",
    "Policy",
    "algorithm",
    "controllers_of",
    "load_agent",
    "new_agent",
    "pretrained_card",
    "settings_help",
    "settings_ranges",
]

# Each learned algorithm: its module, with train(), and there the prefix of its classes and the name
# of its presets.
_MODULES = {
    "reinforce": ("reinforce", "Reinforce", "PRESETS"),
    "dqn": ("dqn", "DQN", "PRESETS"),
    "a2c": ("a2c", "A2C", "PRESETS"),
    "ppo": ("ppo", "PPO", "PRESETS"),
    "sb3-ppo": ("sb3", "SB3PPO", "PPO_PRESETS"),
    "sb3-a2c": ("sb3", "SB3A2C", "A2C_PRESETS"),
    "sb3-dqn": ("sb3", "SB3DQN", "DQN_PRESETS"),
    "sb3-sac": ("sb3", "SB3SAC", "SAC_PRESETS"),
    "rllib-ppo": ("rllib", "RLlibPPO", "PPO_PRESETS"),
    "rllib-dqn": ("rllib", "RLlibDQN", "DQN_PRESETS"),
}
ALGOS = tuple(_MODULES)
BUNDLED_ALGOS = ("reinforce", "dqn", "a2c", "ppo", "sb3-ppo")  # `make results` trains them
ROBUST = ("ppo-robust", "a2c-robust")  # on perturbed robots: `make robust`
CONTROLLERS = ("lqr", "lqg", "random")


def controllers_of(env_id: str) -> tuple[str, ...]:
    """Return the controllers for an id.

    LQR and LQG must observe the state of a registered task that has an equilibrium.
    """
    task = registered(env_id)
    is_regulated = (
        task is not None
        and bare_id(env_id) == task.state_id
        and load_task(task.task).has_equilibrium
    )
    return tuple(name for name in CONTROLLERS if name == "random" or is_regulated)


@dataclass(frozen=True)
class Algorithm:
    """A learned algorithm.

    Args:
        train: ``train(config, run)`` returns an agent.
        config: the class of its settings.
        policy: the class of its policies.
        presets: settings by environment id that differ from the defaults.
    """

    train: Callable[..., Agent]
    config: Any
    policy: Any
    presets: dict[str, dict[str, Any]]

    def preset(self, env_id: str) -> dict[str, Any]:
        """Return the settings for an id that differ from the defaults, none for most ids.

        Those of a namespace, ``"ALE/"``, are for all its ids that have none of their own.
        """
        name = bare_id(env_id)
        namespace = name[: name.find("/") + 1]
        return self.presets.get(name, self.presets.get(namespace, {}))


def algorithm(algo: str) -> Algorithm:
    """Return a learned algorithm by name.

    Raises:
        ValueError: there is no such algorithm.
    """
    if algo not in _MODULES:
        raise ValueError(f"algo={algo!r} must be one of {', '.join(ALGOS)}")
    name, prefix, presets = _MODULES[algo]
    module = importlib.import_module(f".{name}", __name__)
    return Algorithm(
        module.train,
        getattr(module, f"{prefix}Config"),
        getattr(module, f"{prefix}Policy"),
        getattr(module, presets),
    )


def settings_help(algo: str) -> list[tuple[str, Any, str]]:
    """Return name, default and meaning of every setting of an algorithm, from its docstrings.

    Those that are no settings of the learning are left out: ``env_id``, ``env_kwargs``, ``seed``.
    """
    config = algorithm(algo).config
    meanings: dict[str, str] = {}
    for parent in config.__mro__[:-1]:
        _, _, section = (inspect.getdoc(parent) or "").partition("Args:\n")
        name = ""
        for line in section.partition("\n\n")[0].splitlines():
            if line.startswith("        "):  # goes on with the setting above
                meanings[name] += f" {line.strip()}"
            else:
                name, _, meaning = line.strip().partition(": ")
                meanings[name] = meaning
    return [
        (setting.name, setting.default, meanings[setting.name])
        for setting in dataclasses.fields(config)
        if setting.name not in ("env_id", "env_kwargs", "seed")
    ]


def settings_ranges(algo: str) -> dict[str, str]:
    """Return the legal range of every setting that is checked against one, by its name.

    Further conditions, between several settings, are in the meanings of :func:`settings_help`.
    """
    ranges: dict[str, str] = {}
    config: Any = algorithm(algo).config

    class Recording(config):  # type: ignore[misc]
        """Notes what is required of the settings."""

        def require(self, name: str, kind: type, low: float, high: float) -> None:
            ranges[name] = " to ".join(
                f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" for limit in (low, high)
            )

        def require_choice(self, name: str, legal: tuple[Any, ...]) -> None:
            ranges[name] = ", ".join(map(str, legal))

        def require_widths(self, name: str) -> None:
            ranges[name] = "0 to 8 numbers, 1 to 4,096"

        def require_module(self, name: str) -> None:
            """Take it for installed: the ranges need no Ray."""

    Recording(env_id="CartPole-v1")
    del ranges["seed"]  # no setting, see settings_help
    return ranges


def pretrained_card(env_id: str, algo: str) -> Path:
    """Return where the card of a bundled agent is."""
    return Path(__file__).parent / "pretrained" / f"{bare_id(env_id)}-{algo}.json"


def load_agent(
    env_id: str, agent: str | os.PathLike[str], *, policy_class: Any = None, **env_kwargs: Any
) -> Agent:
    """Return an agent with SB3's ``predict`` and with ``make_env``. No code in a file is run.

    Args:
        env_id: any id of Gymnasium's, ``"CartPole-v1"`` or ``"module:Id-v0"``.
        agent: a bundled agent (``"reinforce"``, ``"dqn"``, ``"sb3-ppo"``, ``"ppo-robust"``, whose
            environment is perturbed unless ``perturbations=None`` is given), a controller
            (``"lqr"``, ``"lqg"`` or ``"random"``), or the path of a card (``best.json``) or of the
            folder of a run.
        policy_class: the class that the agent's policy was trained with, if it has a network of
            its own; None for the algorithm's.
        **env_kwargs: keywords of the environment that ``make_env`` makes, beside those that the
            agent was trained with. The LQR is computed for them.

    Raises:
        ValueError: the id or the name is unknown, or the card is for another id.
        FileNotFoundError: there is nothing at the path.
        CheckpointError: the file is damaged or not an agent.
    """
    env = EnvConfig(env_id, env_kwargs)
    if agent in CONTROLLERS:
        return _controller(env, os.fspath(agent))
    from .card import IDENTITY, read_card, read_weights
    from .checkpoints import load_module

    if agent in (*ALGOS, *ROBUST):
        path = pretrained_card(env_id, os.fspath(agent))
    else:
        path = Path(agent)
        if path.is_dir():
            path = path / "best.json"
        elif path.suffix != ".json":
            names = ", ".join((*ALGOS, *ROBUST, *CONTROLLERS))
            raise ValueError(
                f"agent={os.fspath(agent)!r} must be one of {names}, a .json card or a run's folder"
            )
    card = read_card(path, ALGOS)
    # Its id is compared only: the module of an id is imported, which is for the caller to choose.
    if bare_id(card["env_id"]) != bare_id(env_id):
        raise ValueError(f"{path} is an agent for {card['env_id']}, not for {env_id}")
    weights = read_weights(path, card)
    env = EnvConfig(
        env_id,
        {**card["env_kwargs"], **env_kwargs},
        card["frame_stack"],
        card["action_repeat"],
        card["observe_actions"],
        card["hold_dropped"],
    )
    loaded = new_agent(policy_class or algorithm(card["algo"]).policy, env, tuple(card["hidden"]))
    policy: Any = loaded.policy
    load_module(policy.network, weights)
    loaded.facts = {name: fact for name, fact in card.items() if name not in IDENTITY}
    loaded.weights_hash = card["sha256"]
    if agent in ROBUST:
        loaded.name = os.fspath(agent)
    return loaded


def _controller(env: EnvConfig, name: str) -> Agent:
    if name not in controllers_of(env.env_id):
        others = ", ".join((*ALGOS, "random"))
        task = registered(env.env_id)
        where = ""
        if task is not None and load_task(task.task).has_equilibrium:
            where = f": use it on {task.state_id}, or one of {others} here"
        raise ValueError(
            f"agent={name!r} needs to observe the state of a bullet_envs.Task with has_equilibrium,"
            f" which {env.env_id} does not show{where}"
        )

    policy: Policy
    with env.make() as made:
        if name == "lqr":
            from .lqr import LQRPolicy  # here, since it needs the engine and SciPy

            policy = LQRPolicy(made)
        elif name == "lqg":
            from .lqg import LQGPolicy

            policy = LQGPolicy(made)
        else:
            policy = RandomPolicy(made.observation_space, made.action_space)
    return Agent(name, env, policy)

"""Episodes of an agent as a Minari dataset."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from .. import __version__
from .agent import Agent


def collect(
    agent: Agent,
    dataset_id: str,
    seeds: Sequence[int],
    deterministic: bool = True,
    **metadata: str | None,
) -> Any:
    """Play an episode from each seed and return them as a new ``minari.MinariDataset``.

    Observations, actions and rewards are those of the environment itself, a step each, without what
    the agent's policy needs around it (frame stack, repeated or observed actions). Where there are
    perturbations, the infos have the episode's ``parameters``. Images are not compressed.

    Args:
        agent: whose actions to take.
        dataset_id: ``"name-v0"`` or ``"namespace/name-v0"``, not yet in use.
        seeds: of the reset of each episode; the dataset keeps them.
        deterministic: whether the most likely actions.
        **metadata: ``author``, ``author_email`` and ``code_permalink``.

    Raises:
        ValueError: the id is malformed or in use, or observations are of no kind that Minari has.
        ModuleNotFoundError: the extra ``minari`` is not installed.
    """
    for name in ("h5py", "jax"):  # which Minari imports at the first step only
        importlib.import_module(name)
    collector_class, parameters_callback = _minari_classes()
    _require_new(dataset_id)
    collector = collector_class(
        agent.env.make_bare(),
        step_data_callback=parameters_callback,
        record_infos=bool(agent.env.env_kwargs.get("perturbations")),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    # Around the collector, so that the dataset has every step of an action that is repeated.
    with agent.env.wrap(collector) as env:
        for seed in seeds:
            observation, info = env.reset(seed=int(seed))
            agent.policy.begin(info, 1)
            ended = False
            while not ended:
                action, _ = agent.predict(observation, deterministic=deterministic)
                observation, _, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
        with warnings.catch_warnings():
            # Of metadata that were not given.
            warnings.filterwarnings("ignore", message="`.*` is set to None", category=UserWarning)
            return collector.create_dataset(
                dataset_id,
                algorithm_name=agent.algo,
                description=_description(agent, len(seeds), deterministic),
                requirements=[f"bullet-envs=={__version__}"] if agent.env.is_ours else None,
                **metadata,
            )


def _require_new(dataset_id: str) -> None:
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage import get_dataset_path

    if not DATASET_ID_RE.fullmatch(dataset_id) or not dataset_id.rpartition("-v")[2].isdecimal():
        raise ValueError(
            f"dataset id {dataset_id!r} must be NAME-vNUMBER or NAMESPACE/NAME-vNUMBER, of letters,"
            " digits, - and _"
        )
    path = get_dataset_path(dataset_id)
    if path.exists():
        raise ValueError(f"dataset id {dataset_id!r} is in use: {path} exists; choose another")


def _minari_classes() -> tuple[Any, Any]:
    """Return a collector that sees every observation, and a callback that keeps parameters."""
    from minari import DataCollector, StepDataCallback

    class Collector(DataCollector):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            """Take a step whose image is drawn, also where ``ActionRepeat`` leaves it out."""
            unwrapped: Any = self.unwrapped
            if hasattr(unwrapped, "skip_observations"):
                unwrapped.skip_observations = False
            return super().step(action)

    class Parameters(StepDataCallback):  # type: ignore[misc]
        """Keeps of infos the parameters alone: Minari needs infos that have the same entries.

        The info of a reset has them, that of a step has not.
        """

        parameters: Any = None

        def __call__(self, env: gym.Env[Any, Any], **step: Any) -> Any:
            data = super().__call__(env, **step)
            self.parameters = data["info"].get("parameters", self.parameters)
            data["info"] = {"parameters": dict(self.parameters)} if self.parameters else {}
            return data

    return Collector, Parameters


def _description(agent: Agent, count: int, deterministic: bool) -> str:
    actions = "its most likely actions" if deterministic else "random actions of its policy"
    weights = f", weights {agent.weights_hash}" if agent.weights_hash else ""
    return f"{count} episodes of {agent.algo} on {agent.env_id} with {actions}{weights}."

"""Agents in the formats of other tools: an ONNX model, or a folder in Hugging Face's layout."""

import contextlib
import importlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .agent import Agent
from .checkpoints import write_atomically
from .environment import bare_id
from .evaluation import EPISODES, evaluate
from .network_policy import NetworkPolicy

INPUT, OUTPUT = "observation", "action"
RETURNS = {"mean", "std", "worst", "episodes"}  # in a card, of its evaluation


class _MostLikely(nn.Module):
    """A policy as a module from observations to its most likely actions."""

    def __init__(self, policy: NetworkPolicy) -> None:
        super().__init__()
        self._policy = policy
        self.network = policy.network

    def forward(self, observation: Tensor) -> Tensor:
        """Return actions as environments take them."""
        return self._policy.most_likely(observation)


def network_policy(agent: Agent) -> NetworkPolicy:
    """Return the policy of an agent that has a network.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(agent.policy, NetworkPolicy):
        raise ValueError(f"agent={agent.algo!r} has no network to export: use a trained agent")
    return agent.policy


def to_onnx(agent: Agent, path: Path) -> None:
    """Write an ONNX model from a batch of observations to the most likely actions.

    Its input ``observation`` has shape (batch, ...) with any batch size, uint8 for images and
    float32 for all else; its output ``action`` is what the environment takes, clipped and scaled.
    What the agent's environment wraps (frame stack, repeated or observed actions) is in the
    metadata of the model and is left to the caller.

    Args:
        agent: with a network.
        path: of the file, which is replaced.

    Raises:
        ValueError: the agent has no network.
        ModuleNotFoundError: the extra ``onnx`` is not installed.
        OSError: the file cannot be written.
    """
    policy = network_policy(agent)
    for name in ("onnx", "onnxscript"):  # which PyTorch imports
        importlib.import_module(name)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder, and must be a file")
    # Of two, since the exporter takes a size of 1 to be fixed.
    space = agent.observation_space
    example = policy.tensor(torch.zeros(2, *(space.shape or ())).numpy())
    with _prepared_exporter():
        program = torch.onnx.export(
            _MostLikely(policy).eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"the exporter of PyTorch returned no model of {agent.algo}")
    model = program.model_proto
    for key, value in _metadata(agent).items():
        model.metadata_props.add(key=key, value=value)
    write_atomically(path, model.SerializeToString())


@contextlib.contextmanager
def _prepared_exporter() -> Iterator[None]:
    """Let PyTorch export the distributions that SB3 uses, and say nothing that users cannot change.

    Checks of their parameters cannot be exported. It warns of its own deprecated calls, and logs
    that there is no torchvision.
    """
    checked = Distribution._validate_args
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    Distribution.set_default_validate_args(False)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        Distribution.set_default_validate_args(checked)
        logger.setLevel(level)


def _metadata(agent: Agent) -> dict[str, str]:
    """Return what a user of the weights must know of the environment, as strings."""
    return {
        "algo": agent.algo,
        "env_id": agent.env_id,
        "env_kwargs": json.dumps(agent.env.env_kwargs),
        "frame_stack": str(agent.env.frame_stack),
        "action_repeat": str(agent.env.action_repeat),
        "observe_actions": str(agent.env.observe_actions).lower(),
        "hold_dropped": str(agent.env.hold_dropped).lower(),
        "sha256": agent.weights_hash or "",
    }


def to_huggingface(agent: Agent, folder: Path, video: Path | None = None) -> None:
    """Write a folder in Hugging Face's layout. Nothing is uploaded.

    It has the model card ``README.md``, the weights and ``best.json``, which :func:`load_agent`
    takes, and ``replay.mp4`` if there is a video. An agent whose card has no returns is evaluated,
    and these are added to the card.

    Args:
        agent: with a network.
        folder: to be written, which must not exist or be empty.
        video: an MP4 of an episode.

    Raises:
        ValueError: the agent has no network.
        FileExistsError: there is something in the folder.
        ModuleNotFoundError: the extra ``huggingface`` is not installed.
        OSError: the video cannot be read or the folder cannot be written.
    """
    network_policy(agent)
    if video is not None and not video.is_file():
        raise FileNotFoundError(f"cannot read {video}: no such file")
    importlib.import_module("yaml")  # refuses before minutes are spent on episodes
    require_free(folder)
    if not isinstance(returns := agent.facts.get("returns"), dict) or RETURNS - returns.keys():
        played = evaluate(agent).returns
        agent.facts["returns"] = {
            "mean": float(played.mean()),
            "std": float(played.std()),
            "worst": float(played.min()),
            "episodes": EPISODES,
        }
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        part.chmod(0o755)
        agent.save(part / "best.json")
        if video is not None:
            shutil.copyfile(video, part / "replay.mp4")
        write_atomically(part / "README.md", _model_card(agent, video is not None).encode())
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part)
        raise


def require_free(folder: Path) -> None:
    """Refuse a folder in which there is something.

    Raises:
        FileExistsError: there is.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"cannot write {folder}: it exists, and must be new or an empty folder"
        )


def _model_card(agent: Agent, has_video: bool) -> str:
    """Return README.md: front matter as RL Zoo and huggingface_sb3 write it, and how to load."""
    import yaml

    env_id, returns = bare_id(agent.env_id), agent.facts["returns"]
    mean_reward = f"{returns['mean']:.2f} +/- {returns['std']:.2f}"
    library = "stable-baselines3" if agent.algo.startswith("sb3-") else "bullet-envs"
    front: dict[str, Any] = {
        "library_name": library,
        "tags": [
            env_id,
            "deep-reinforcement-learning",
            "reinforcement-learning",
            library if library == "stable-baselines3" else "custom-implementation",
            "bullet-envs",
        ],
        "model-index": [
            {
                "name": agent.algo,
                "results": [
                    {
                        "task": {
                            "type": "reinforcement-learning",
                            "name": "reinforcement-learning",
                        },
                        "dataset": {"name": env_id, "type": env_id},
                        "metrics": [
                            {
                                "type": "mean_reward",
                                "value": mean_reward,
                                "name": "mean_reward",
                                "verified": False,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    video = "\n`replay.mp4` shows one episode.\n" if has_video else ""
    return f"""---
{yaml.safe_dump(front, sort_keys=False)}---

# {agent.algo} on {env_id}

Mean return of {returns["episodes"]} episodes from initial states that the training never saw,
taking the most likely action: {mean_reward} (worst {returns["worst"]:g}).
{video}
Load it from this folder; no code in the files is run:

```python
from bullet_envs.agents import load_agent

agent = load_agent({agent.env_id!r}, "PATH/OF/THIS/FOLDER")
env = agent.make_env(render_mode="rgb_array")
observation, info = env.reset(seed=0)
action, _ = agent.predict(observation, deterministic=True)
```

`best.json` has the settings of the training, its seed, and the versions of the packages.
"""

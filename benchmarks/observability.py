"""Whether the images carry the state, measured without any reinforcement learning.

A small network learns to tell the state from a stack of images, taken while an LQR with random
pushes plays; then the LQR acts on what the network tells, and the images of that play are added,
as in DAgger (Ross et al., "A reduction of imitation learning and structured prediction to no-regret
online learning", 2011). If the regulator that balances on the true state balances on the estimate
as well, then the images suffice, and an agent that fails on them fails for another reason.

Measure every row that the CSV lacks (``make observability``, about half an hour)::

    python -m benchmarks.observability

or one setting: ``python -m benchmarks.observability --env BalancingPlatePixels-v0 --size 96``.
"""

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bullet_envs import registered
from bullet_envs.agents import Agent, controllers_of, load_agent
from bullet_envs.agents.checkpoints import write_atomically
from bullet_envs.agents.evaluation import EVALUATION_SEEDS
from bullet_envs.agents.networks import Keypoints, build_network
from bullet_envs.agents.run import TORCH_THREADS
from bullet_envs.progress import progress_bar
from bullet_envs.registration import env_ids

from .cells import resumable
from .tables import read_rows, with_section, write_rows

# Those whose state an LQR can hold.
PIXEL_IDS = tuple(
    registered(env_id).pixel_id  # type: ignore[union-attr]
    for env_id in env_ids()
    if "lqr" in controllers_of(env_id)
)

FRAMES = 3  # in a stack
IMAGES = 5_000  # collected in each round
UNSEEN = 2_000  # that R² is measured on
ROUNDS = 3
EPOCHS = 8
BATCH = 128
LEARNING_RATE = 2e-3
EPISODE = 120  # actions: short episodes show more initial states
PUSHES = (0.05, 0.2, 0.4)  # probability of a random action, drawn per episode
COLUMNS = ("env_id", "size", "stride", "supersampling", "r2", "mean", "worst")
CSV_PATH = Path(__file__).parent / "observability.csv"
# Size, stride, supersampling.
SETTINGS = ((48, 2, 1), (64, 1, 1), (64, 2, 1), (64, 4, 1), (64, 2, 2), (84, 2, 1), (96, 2, 1))

Array = npt.NDArray[Any]


@dataclass
class Images:
    """Images in the order of time, the state that each shows, and where its episode began.

    Args:
        images: uint8 of shape (n, size, size, 3).
        states: as the state id observes them, shape (n, columns).
        first: index of the episode's first image, shape (n,).
    """

    images: Array
    states: Array
    first: Array

    def stacks(self, rows: Array, stride: int) -> torch.Tensor:
        """Return stacks of images ``stride`` actions apart, shape (rows, FRAMES, ...)."""
        back = stride * np.arange(FRAMES)[::-1]
        return torch.from_numpy(
            self.images[np.maximum(rows[:, None] - back, self.first[rows, None])]
        )


def join(parts: Sequence[Images]) -> Images:
    """Return all parts, one after the other."""
    before = np.cumsum([0, *(len(part.states) for part in parts)])
    return Images(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.states for part in parts]),
        np.concatenate([part.first + n for part, n in zip(parts, before, strict=False)]),
    )


class Estimator(nn.Module):
    """Tells the columns of the state id's observation from a stack of images.

    Args:
        size: of an image.
        states: examples, shape (n, columns).
    """

    def __init__(self, size: int, states: Array) -> None:
        super().__init__()
        space = gym.spaces.Box(0, 255, (FRAMES, size, size, 3), np.uint8)
        self.network = build_network(space, (64, 64), states.shape[1])
        self.mean = torch.from_numpy(states.mean(0))
        self.scale = torch.from_numpy(states.std(0) + 1e-6)

    def fit(self, data: Images, stride: int, rng: np.random.Generator) -> None:
        """Learn from all images, ``EPOCHS`` times each."""
        optimiser = torch.optim.Adam(self.parameters(), LEARNING_RATE)
        batches = len(data.states) // BATCH
        for step in range(EPOCHS * batches):
            if step % batches == 0:
                order = rng.permutation(len(data.states))
            rows = order[step % batches * BATCH :][:BATCH]
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / (EPOCHS * batches))
            target = (torch.from_numpy(data.states[rows]) - self.mean) / self.scale
            loss = nn.functional.smooth_l1_loss(self.network(data.stacks(rows, stride)), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def estimate(self, stacks: torch.Tensor) -> Array:
        """Return states, shape (rows, columns)."""
        with torch.no_grad():
            states: Array = (self.network(stacks) * self.scale + self.mean).numpy()
        return states

    def r2(self, data: Images, stride: int) -> Array:
        """Return the coefficient of determination of each column."""
        rows = np.array_split(np.arange(len(data.states)), len(data.states) // 250 + 1)
        estimates = np.concatenate([self.estimate(data.stacks(part, stride)) for part in rows])
        r2: Array = 1 - ((estimates - data.states) ** 2).mean(0) / data.states.var(0)
        return r2


def play(
    env: gym.Env[Any, Any],
    lqr: Agent,
    estimator: Estimator | None,
    stride: int,
    seed: int,
    rng: np.random.Generator,
    pushes: float = 0.0,
    limit: int | None = None,
) -> Images:
    """Play an episode on the estimated state, or on the true one without an estimator."""
    image, _ = env.reset(seed=seed)
    task: Any = env.unwrapped.task  # type: ignore[attr-defined]
    recent = deque([image], stride * (FRAMES - 1) + 1)
    images: list[Array] = []
    states: list[Array] = []
    ended = False
    while not (ended or len(images) == limit):
        state = env.unwrapped.state()  # type: ignore[attr-defined]
        images.append(image)
        states.append(np.array(task.observe(tuple(state.values())), np.float32))
        if estimator is None:
            known = states[-1][None]
        else:
            stack = [recent[max(0, len(recent) - 1 - stride * k)] for k in range(FRAMES)[::-1]]
            known = estimator.estimate(torch.from_numpy(np.array(stack)[None]))
        action = lqr.act(known, deterministic=True)[0]
        if rng.random() < pushes:
            action = rng.integers(env.action_space.n)  # type: ignore[attr-defined]
        image, _, terminated, truncated, _ = env.step(action)
        recent.append(image)
        ended = terminated or truncated
    return Images(np.array(images), np.array(states), np.zeros(len(images), np.int64))


def measure(
    env_id: str, size: int, stride: int, supersampling: int, episodes: int = 100
) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        env_id: a pixel id.
        size: of an image (pixels).
        stride: actions between the images of a stack, 1 to 16.
        supersampling: as the environment's keyword.
        episodes: to play on the estimate, from unseen initial states, 1 to 1000.

    Returns:
        The setting, R² of each column on images that were not learned from, and mean and least
        return of the LQR on the estimate.

    Raises:
        ValueError: a value is out of its range.
    """
    if env_id not in PIXEL_IDS:
        raise ValueError(f"env_id={env_id!r} must be one of {', '.join(PIXEL_IDS)}")
    if not 1 <= stride <= 16:
        raise ValueError(f"stride={stride!r} must lie from 1 to 16")
    if not 1 <= episodes <= len(EVALUATION_SEEDS):
        raise ValueError(f"episodes={episodes!r} must lie from 1 to {len(EVALUATION_SEEDS)}")
    torch.set_num_threads(TORCH_THREADS)
    rng = np.random.default_rng(0)
    lqr = load_agent(registered(env_id).state_id, "lqr")  # type: ignore[union-attr]
    env = gym.make(f"bullet_envs:{env_id}", size=size, supersampling=supersampling)
    estimator: Estimator | None = None

    def collect(count: int) -> Images:
        episodes: list[Images] = []
        while sum(len(episode.states) for episode in episodes) < count:
            seed, pushes = int(rng.integers(2**31)), float(rng.choice(PUSHES))
            episodes.append(play(env, lqr, estimator, stride, seed, rng, pushes, EPISODE))
        return join(episodes)

    title = f"{env_id} {size} px, stride {stride}, supersampling {supersampling}"
    with env:
        Keypoints((FRAMES, *env.observation_space.shape))  # type: ignore[misc]  # may refuse a size
        torch.manual_seed(0)
        unseen = collect(UNSEEN)
        data = collect(IMAGES)
        estimator = Estimator(size, data.states)
        for count in progress_bar(iterable=range(ROUNDS), desc=title, unit="round", leave=False):
            if count:
                data = join([data, collect(IMAGES)])
            estimator.fit(data, stride, rng)
        r2 = estimator.r2(unseen, stride)
        returns = [
            len(play(env, lqr, estimator, stride, seed, rng).states)
            for seed in progress_bar(
                iterable=EVALUATION_SEEDS[:episodes], desc="LQR", unit="episode", leave=False
            )
        ]
    return {
        "env_id": env_id,
        "size": size,
        "stride": stride,
        "supersampling": supersampling,
        "r2": " ".join(f"{value:.3f}" for value in r2),
        "mean": round(float(np.mean(returns)), 1),
        "worst": min(returns),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of some rows."""
    lines = []
    for env_id in PIXEL_IDS:
        mine = [row for row in rows if row["env_id"] == env_id]
        if not mine:
            continue
        names = _column_names(env_id)
        lines += [
            f"| {env_id}: px | stride | supersampling | {' | '.join(names)} |"
            " LQR on the estimate | worst |",
            "|---" * (5 + len(names)) + "|",
        ]
        for row in mine:
            r2 = " | ".join(f"{float(value):.2f}" for value in row["r2"].split())
            lines.append(
                f"| {row['size']} | {row['stride']} | {row['supersampling']} | {r2} |"
                f" {float(row['mean']):.1f} | {row['worst']} |"
            )
        lines.append("")
    return "\n".join(lines)


def _column_names(env_id: str) -> list[str]:
    with gym.make(f"bullet_envs:{env_id}") as env:
        names: tuple[str, ...] = env.unwrapped.task.observed_names  # type: ignore[attr-defined]
    return list(names)


@resumable()
def main() -> None:
    """Measure every row that the CSV lacks and rewrite the table of a document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--csv", type=Path, default=CSV_PATH)
    parser.add_argument("--document", type=Path, default=Path("docs/pixels.md"))
    parser.add_argument("--env", choices=PIXEL_IDS, help="measure and print one setting of this")
    parser.add_argument("--size", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--stride", type=int, default=2, help="actions between images")
    parser.add_argument("--supersampling", type=int, default=1)
    parser.add_argument("--eval-episodes", type=int, default=100)
    options = parser.parse_args()
    if options.env is not None:
        setting = (options.size, options.stride, options.supersampling)
        print(table([measure(options.env, *setting, options.eval_episodes)]))
        return
    for env_id in PIXEL_IDS:
        for setting in SETTINGS:
            rows = read_rows(options.csv)
            key = (env_id, *map(str, setting))
            if key in [tuple(str(row[name]) for name in COLUMNS[:4]) for row in rows]:
                continue
            rows.append(measure(env_id, *setting))
            rows.sort(key=_order)
            write_rows(options.csv, COLUMNS, rows)
    text = options.document.read_text()
    write_atomically(
        options.document,
        with_section(text, "observability", table(read_rows(options.csv))).encode(),
    )


def _order(row: dict[str, Any]) -> tuple[int, ...]:
    setting = tuple(int(row[name]) for name in COLUMNS[1:4])
    return (PIXEL_IDS.index(row["env_id"]), setting[2], *setting)


if __name__ == "__main__":
    main()

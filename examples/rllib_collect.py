"""RLlib's env runners play, a learner of one's own learns: DQN as in ``bullet_envs.agents.dqn``.

Install ``bullet-envs[rllib]`` with ``-c constraints-rllib.txt`` and run::

    python examples/rllib_collect.py --num-env-runners 2

The runners are Ray actors, on this machine or on a cluster. Each holds a batch of environments and
a copy of the Q-network. They play while the learner learns from what they have played before.
"""

import argparse
import copy
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from torch.nn.functional import smooth_l1_loss

from bullet_envs.agents import Agent, algorithm, new_agent
from bullet_envs.agents.dqn import td_target
from bullet_envs.agents.evaluation import SELECTION_SEEDS, evaluate
from bullet_envs.agents.replay_buffer import Batch
from bullet_envs.agents.rllib import RLlibDQNConfig, algorithm_config

TAU = 0.005  # how far the target network follows the Q-network at each gradient step


class Transitions:
    """The latest transitions of whatever runner.

    Args:
        size: of them.
        n_steps: rewards in a return before it bootstraps.
        gamma: discount.
    """

    def __init__(self, size: int, n_steps: int, gamma: float) -> None:
        self.size, self.n_steps, self.gamma = size, n_steps, gamma
        self.columns: dict[str, Any] = {}
        self.added = 0

    def add(self, episode: Any) -> None:
        """Add an episode of RLlib's, or a part of one: its last windows are the shorter ones."""
        observations, rewards = episode.get_observations(), episode.get_rewards()
        first = np.arange(len(episode))
        last = np.minimum(first + self.n_steps, len(episode))
        goes_on = ~(episode.is_terminated & (last == len(episode)))
        discounts = self.gamma ** np.arange(self.n_steps)
        new = {
            "observations": observations[first],
            "actions": episode.get_actions(),
            "returns": [
                rewards[begin:end] @ discounts[: end - begin]
                for begin, end in zip(first, last, strict=True)
            ],
            "next_obs": observations[last],
            "bootstrap": goes_on * self.gamma ** (last - first),
        }
        places = (self.added + first) % self.size
        for name, values in new.items():
            tensor = torch.as_tensor(np.array(values))
            tensor = tensor.float() if tensor.is_floating_point() else tensor
            if name not in self.columns:
                self.columns[name] = tensor.new_zeros((self.size, *tensor.shape[1:]))
            self.columns[name][places] = tensor
        self.added += len(episode)

    def sample(self, batch_size: int) -> Batch:
        """Return random transitions."""
        chosen = torch.randint(min(self.added, self.size), (batch_size,))
        return Batch(**{name: column[chosen] for name, column in self.columns.items()})


def train(config: RLlibDQNConfig) -> Agent:
    """Train on what the env runners play and return the agent."""
    torch.set_num_threads(1)  # networks so small gain nothing from more
    torch.manual_seed(config.seed)
    settings = algorithm_config(config)
    remote = ray.remote(num_cpus=1)(SingleAgentEnvRunner)
    runners = [
        remote.remote(config=settings, worker_index=1 + index)
        for index in range(config.num_env_runners)
    ]
    agent = new_agent(algorithm("rllib-dqn").policy, config.env, config.hidden)
    target_network: Any = agent.policy.network
    q_network = copy.deepcopy(target_network)
    weights, averages = list(q_network.parameters()), list(target_network.parameters())
    optimiser = torch.optim.Adam(weights, config.lr)
    transitions = Transitions(config.buffer_size, config.n_step, config.gamma)

    def play(runner: Any) -> Any:
        network = q_network.state_dict()
        module = {f"network.{name}": value.numpy() for name, value in network.items()}
        state = {"rl_module": module, "num_env_steps_sampled_lifetime": transitions.added}
        runner.set_state.remote(state)
        return runner.sample.remote(num_timesteps=8 * config.num_envs_per_env_runner)

    playing = {play(runner): runner for runner in runners}
    while transitions.added < config.n_timesteps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        before = transitions.added
        for episode in ray.get(ready):
            transitions.add(episode)
        playing[play(runner)] = runner
        if transitions.added < config.learning_starts:
            continue
        optimiser.param_groups[0]["lr"] = config.lr * (1 - before / config.n_timesteps)
        learned = (transitions.added - before) * config.training_intensity
        for _ in range(round(learned / config.train_batch_size)):
            batch = transitions.sample(config.train_batch_size)
            values = q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
            loss = smooth_l1_loss(values, td_target(q_network, target_network, batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for average, weight in zip(averages, weights, strict=True):
                    average.lerp_(weight, TAU)
    return agent


def main() -> None:
    """Train and print the mean return of 20 episodes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--env", default="BulletCartPole-v0")
    parser.add_argument("-n", "--n-timesteps", type=int, default=50_000)
    parser.add_argument("--num-env-runners", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False)
    learner = algorithm("rllib-dqn")
    settings = learner.preset(options.env) | {
        "n_timesteps": options.n_timesteps,
        "num_env_runners": options.num_env_runners,
    }
    agent = train(learner.config(env_id=options.env, seed=options.seed, **settings))
    print(evaluate(agent, SELECTION_SEEDS[:20]).returns.mean())
    ray.shutdown()


if __name__ == "__main__":
    main()

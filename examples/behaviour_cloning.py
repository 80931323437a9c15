"""Behaviour cloning: a network learns an agent's actions from a Minari dataset, and then plays.

Install ``bullet-envs[agents,minari]``, collect with ``bullet-envs collect --env BalancingPlate-v0
--algo ppo -n 100 -o plate/ppo-v0``, and give the dataset's id: ``python
examples/behaviour_cloning.py plate/ppo-v0``.
"""

import sys

import gymnasium as gym
import minari
import numpy as np
import torch
from torch import nn

from bullet_envs.agents.evaluation import EVALUATION_SEEDS, run_episodes

dataset = minari.load_dataset(sys.argv[1])
episodes = list(dataset.iterate_episodes())
observations = torch.as_tensor(np.concatenate([one.observations[:-1] for one in episodes]))
actions = torch.as_tensor(np.concatenate([one.actions for one in episodes]))
torch.manual_seed(0)
layers = [nn.Linear(observations.shape[1], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
network = nn.Sequential(*layers, nn.Linear(64, int(dataset.action_space.n)))
optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(5000):
    batch = torch.randint(len(actions), (256,))
    loss = nn.functional.cross_entropy(network(observations[batch]), actions[batch])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
seeds = EVALUATION_SEEDS[:100]  # of unseen initial states
envs = gym.make_vec(dataset.env_spec, num_envs=len(seeds))
played = run_episodes(envs, lambda o, _: network(torch.as_tensor(o)).argmax(1).numpy(), seeds)
returns = np.array([one.episode_return for one in played])
print(f"return of {len(returns)} episodes: {returns.mean():.1f} +/- {returns.std():.1f}")

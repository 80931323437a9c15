"""Behaviour cloning: a network learns an agent's actions from a Minari dataset, and then plays.

Install ``bullet-envs[agents,minari]``, collect with ``bullet-envs collect --env BalancingPlate-v0
--algo ppo -n 100 -o plate/ppo-v0``, and give the dataset's id: ``python
examples/behaviour_cloning.py plate/ppo-v0``.
"""

import sys

import minari
import numpy as np
import torch
from torch import nn

dataset = minari.load_dataset(sys.argv[1])
episodes = list(dataset.iterate_episodes())
observations = torch.as_tensor(np.concatenate([one.observations[:-1] for one in episodes]))
actions = torch.as_tensor(np.concatenate([one.actions for one in episodes]))
env = dataset.recover_environment()
torch.manual_seed(0)
network = nn.Sequential(
    *(nn.Linear(observations.shape[1], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()),
    nn.Linear(64, int(env.action_space.n)),
)
optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
for _ in range(5000):
    batch = torch.randint(len(actions), (256,))
    loss = nn.functional.cross_entropy(network(observations[batch]), actions[batch])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
returns = np.zeros(100)
for episode in range(len(returns)):
    observation, _ = env.reset(seed=10_000_000 + episode)  # unseen initial states
    ended = False
    while not ended:
        action = network(torch.as_tensor(observation)).argmax().item()
        observation, reward, terminated, truncated, _ = env.step(action)
        returns[episode] += float(reward)
        ended = terminated or truncated
print(f"return of {len(returns)} episodes: {returns.mean():.1f} +/- {returns.std():.1f}")

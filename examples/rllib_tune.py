"""Ray Tune looks for a learning rate of RLlib's PPO: eight trainings, the bad ones stopped early.

Install ``bullet-envs[rllib]`` with ``-c constraints-rllib.txt``.
"""

import gymnasium as gym
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.schedulers import ASHAScheduler

from bullet_envs.agents.rllib_modules import RequireNextStep

RETURN = "env_runners/episode_return_mean"
config = (
    PPOConfig()
    .environment("bullet_envs:BulletCartPole-v0")
    .env_runners(
        gym_env_vectorize_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
        num_env_runners=0,
        num_envs_per_env_runner=16,
    )
    .training(lr=tune.loguniform(1e-5, 1e-2), train_batch_size_per_learner=2048)
    .callbacks(RequireNextStep)
)
tuner = tune.Tuner(
    "PPO",
    param_space=config,
    tune_config=tune.TuneConfig(
        metric=RETURN, mode="max", num_samples=8, scheduler=ASHAScheduler(max_t=20)
    ),
    run_config=tune.RunConfig(stop={RETURN: 475}),
)
best = tuner.fit().get_best_result()
print(f"lr={best.config['lr']:.1e}", best.metrics["env_runners"]["episode_return_mean"])

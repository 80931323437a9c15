"""PyBullet environments for Gymnasium, proved right and proved solvable.

Importing the package registers the ids in ``ENV_IDS`` and loads neither PyBullet nor torch.
"""

from typing import Any

import gymnasium as gym

__version__ = "0.1.0"

_CART_POLE, _PLATE = "BulletCartPole", "BalancingPlate"
# The stem of the names of the classes for one robot and for many, and their keywords.
_REGISTRY: dict[str, tuple[str, dict[str, Any]]] = {
    "BulletCartPole-v0": (_CART_POLE, {}),
    "BalancingPlate-v0": (_PLATE, {}),
    "BulletCartPolePixels-v0": (_CART_POLE, {"observer": "pixels"}),
    "BalancingPlatePixels-v0": (_PLATE, {"observer": "pixels"}),
}
ENV_IDS = tuple(_REGISTRY)
PIXEL_IDS = tuple(env_id for env_id, (_, kwargs) in _REGISTRY.items() if kwargs)


def register_envs() -> None:
    """Register every id with Gymnasium. Calling it again changes nothing."""
    for env_id, (stem, kwargs) in _REGISTRY.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                f"bullet_envs.env:{stem}Env",
                vector_entry_point=f"bullet_envs.vector:{stem}VectorEnv",
                max_episode_steps=500,
                reward_threshold=475.0,
                order_enforce=False,  # the environments themselves raise ResetNeeded
                kwargs=dict(kwargs),
            )


def __getattr__(name: str) -> Any:
    if name == "Recorder":
        from .recorder import Recorder

        return Recorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_envs()

"""A planar two-link arm that reaches for targets: ``planar_arm:PlanarArm-v0``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bullet_envs import Actuator, BodyScene, Camera, Task, read_joints, register_task

URDF = Path(__file__).with_name("planar_arm.urdf")
JOINTS = read_joints(URDF)
SHOULDER, ELBOW = JOINTS["shoulder"], JOINTS["elbow"]
UPPER_ARM, FOREARM = ELBOW.origin[0], JOINTS["tip"].origin[0]  # m, their lengths
REACH = UPPER_ARM + FOREARM  # m, the outer radius of what the fingertip reaches
# The inner radius, where the elbow is at its limit.
INNER = np.sqrt(UPPER_ARM**2 + FOREARM**2 + 2 * UPPER_ARM * FOREARM * np.cos(ELBOW.upper))
TOLERANCE = 0.02  # m, a fingertip this near has reached its target
OVERSHOOT = 0.5  # rad, Bullet's limits are soft
MAX_RATE = 100.0  # rad/s, Bullet's own limit


@register_task("PlanarArm")
@dataclass(frozen=True, kw_only=True)
class PlanarArm(Task):
    """Hold the fingertip of a planar arm at a target, driving shoulder and elbow with torques.

    Keywords: ``sparse`` rewards 0 within 2 cm of the target and -1 elsewhere;
    ``goal_observation`` observes a Dict with achieved and desired goal.
    """

    sparse: bool = False
    goal_observation: bool = False

    state_names: ClassVar = (
        *("shoulder", "shoulder_rate", "elbow", "elbow_rate"),
        *("target_x", "target_y"),
    )
    max_episode_steps: ClassVar = 100  # 2 s
    reward_threshold: ClassVar = 55.0
    video_camera: ClassVar = Camera(eye=(0.0, -0.5, 0.8), target=(0.0, 0.0, 0.05), fov=40.0)
    agent_camera: ClassVar = Camera(
        eye=(0.0, 0.0, 1.0), target=(0.0, 0.0, 0.0), fov=36.0, shadow=False, up=(0.0, 1.0, 0.0)
    )

    @property
    def actuators(self) -> tuple[Actuator, ...]:
        """Torques of as much as the URDF allows."""
        return (
            Actuator(joint="shoulder", scale=SHOULDER.effort),
            Actuator(joint="elbow", scale=ELBOW.effort),
        )

    def build(self, world: Any, num_envs: int) -> BodyScene:
        """Load the arms, and show their targets at the height of the fingertips."""
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(URDF, joints=("shoulder", "elbow"))
        scene.add_goal(2, radius=TOLERANCE, colour=(0.1, 0.6, 0.2), origin=(0.0, 0.0, 0.07))
        return scene

    def rest(self) -> Sequence[float]:
        """Return a stretched arm whose fingertip is at its target."""
        return 0.0, 0.0, 0.0, 0.0, REACH, 0.0

    def sample_initial_state(self, rng: np.random.Generator) -> Sequence[float]:
        """Return a resting arm and a target, uniform over the reachable annulus."""
        shoulder, bearing = rng.uniform(-np.pi, np.pi, 2)
        elbow = rng.uniform(ELBOW.lower, ELBOW.upper)
        radius = np.sqrt(rng.uniform(INNER**2, REACH**2))
        target = radius * np.cos(bearing), radius * np.sin(bearing)
        return [float(number) for number in (shoulder, 0.0, elbow, 0.0, *target)]

    def observe(self, state: Sequence[Any]) -> Any:
        """Return the joints, and the target and the way to it in the upper arm's frame."""
        shoulder, shoulder_rate, elbow, elbow_rate, x, y = state
        joints = (
            *(shoulder / SHOULDER.upper, np.cos(elbow), np.sin(elbow)),
            *(shoulder_rate / 10, elbow_rate / 10),
        )
        if self.goal_observation:
            heading = np.cos(shoulder), np.sin(shoulder)
            goals = {"achieved_goal": self.fingertip(state), "desired_goal": (x, y)}
            return {"observation": (*joints, *heading), **goals}
        c, s = np.cos(shoulder), np.sin(shoulder)
        tip_x, tip_y = UPPER_ARM + FOREARM * np.cos(elbow), FOREARM * np.sin(elbow)
        along, across = c * x + s * y, c * y - s * x
        to_target = (along - tip_x) / REACH, (across - tip_y) / REACH
        return (*joints, along / REACH, across / REACH, *to_target)

    def observation_bounds(self) -> Sequence[float] | Mapping[str, Sequence[float]]:
        """Return the greatest absolute values of what :meth:`observe` returns."""
        joints = (1 + OVERSHOOT / SHOULDER.upper, 1.0, 1.0, MAX_RATE / 10, MAX_RATE / 10)
        if self.goal_observation:
            goals = {"achieved_goal": (REACH, REACH), "desired_goal": (REACH, REACH)}
            return {"observation": (*joints, 1.0, 1.0), **goals}
        return (*joints, 1.0, 1.0, 2.0, 2.0)

    def reward(self, state: Sequence[Any], action: Sequence[Any], next_state: Sequence[Any]) -> Any:
        """Return the terms of the reward: nearness, precision and small torques."""
        distance = self.distance(next_state)
        if self.sparse:
            return np.where(distance < TOLERANCE, 0.0, -1.0)
        shoulder, elbow = action
        shoulder, elbow = shoulder / SHOULDER.effort, elbow / ELBOW.effort
        return {
            "distance": -distance / REACH,
            "precision": np.exp(-np.square(distance / TOLERANCE)),
            "effort": -0.025 * (shoulder * shoulder + elbow * elbow),
        }

    def terminated(self, state: Sequence[Any]) -> bool:
        """Return False: only the time limit ends an episode."""
        return False

    def info(self, state: Sequence[Any]) -> dict[str, Any]:
        """Return the distance to the target (m) and whether it is within the tolerance."""
        distance = self.distance(state)
        return {"distance": distance, "is_success": distance < TOLERANCE}

    def fingertip(self, state: Sequence[Any]) -> tuple[Any, Any]:
        """Return the fingertip's position x, y (m)."""
        shoulder, _, elbow = state[:3]
        x = UPPER_ARM * np.cos(shoulder) + FOREARM * np.cos(shoulder + elbow)
        y = UPPER_ARM * np.sin(shoulder) + FOREARM * np.sin(shoulder + elbow)
        return x, y

    def distance(self, state: Sequence[Any]) -> Any:
        """Return the distance from the fingertip to the target (m)."""
        x, y = self.fingertip(state)
        return np.hypot(x - state[4], y - state[5])

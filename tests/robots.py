"""Tasks that are registered for the tests only, so that nothing is special about the suite's own.

``robots:ElbowArm-v0`` has torque motors, joint limits, damping, friction, a goal, a Dict
observation, reward terms and an info, takes continuous actions only and never terminates.
``robots:Shover-v0`` has a velocity and a position motor that push a free box about.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bullet_envs import Actuator, BodyScene, Camera, Parameter, Task, read_links, register_task

HERE = Path(__file__).parent
PUCK = read_links(HERE / "puck.urdf")["puck"]


@register_task("ElbowArm")
@dataclass(frozen=True, kw_only=True)
class ElbowArm(Task):
    """Reach a target in a plane with an arm of two links."""

    torque: float = 0.3
    elbow_damping: float = 0.01

    parameters: ClassVar = (
        Parameter(name="torque", unit="N·m", low=0.01, high=1),
        Parameter(name="elbow_damping", unit="N·m·s/rad", low=0, high=1),
    )
    state_names: ClassVar = ("shoulder", "shoulder_rate", "elbow", "elbow_rate", "goal_x", "goal_y")
    max_episode_steps: ClassVar = 60
    reward_threshold: ClassVar = -5.0
    video_camera: ClassVar = Camera(eye=(0.0, -0.9, 0.9), target=(0.0, 0.0, 0.0), fov=45.0)
    agent_camera: ClassVar = Camera(
        eye=(0.0, 0.0, 1.2), target=(0.0, 0.0, 0.0), fov=45.0, shadow=False
    )

    @property
    def actuators(self):
        return (
            Actuator(joint="shoulder", scale=self.torque),
            Actuator(joint="elbow", scale=self.torque / 2),
        )

    def build(self, world, num_envs):
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(HERE / "elbow_arm.urdf", ("shoulder", "elbow"))
        scene.add_goal(2)
        return scene

    def set_parameters(self, scene, index):
        scene.body(index, "lower").set_damping("elbow", self.elbow_damping)

    def rest(self):
        return 0.0, 0.0, 0.0, 0.0, 0.4, 0.0

    def sample_initial_state(self, rng):
        shoulder, elbow, angle = rng.uniform(-0.9, 0.9, 3).tolist()
        radius = 0.2 + 0.2 * rng.random()
        goal = (radius * np.cos(angle)).item(), (radius * np.sin(angle)).item()
        return shoulder, 0.0, elbow, 0.0, *goal

    def observe(self, state):
        shoulder, shoulder_rate, elbow, elbow_rate, *goal = state
        return {"arm": (shoulder, elbow, shoulder_rate / 10, elbow_rate / 10), "goal": goal}

    def observation_bounds(self):
        return {"arm": (10.0,) * 4, "goal": (1.0, 1.0)}

    def terminated(self, state):
        return False

    def _distance(self, state):
        shoulder, _, elbow, _, x, y = state
        tip_x = 0.2 * np.cos(shoulder) + 0.2 * np.cos(shoulder + elbow)
        tip_y = 0.2 * np.sin(shoulder) + 0.2 * np.sin(shoulder + elbow)
        return np.hypot(tip_x - x, tip_y - y)

    def reward(self, state, action, next_state):
        effort = sum(torque * torque for torque in action) / (self.torque * self.torque)
        nearer = self._distance(state) - self._distance(next_state)
        return {
            "distance": -self._distance(next_state),
            "effort": -0.01 * effort,
            "nearer": 10 * nearer,
        }

    def info(self, state):
        distance = self._distance(state)
        return {"is_success": distance < 0.05, "distance": distance}


@register_task("Shover")
@dataclass(frozen=True, kw_only=True)
class Shover(Task):
    """Push a free box along a table, as fast as the motors can."""

    speed: float = 0.5
    puck_mass: float = PUCK.mass

    parameters: ClassVar = (Parameter(name="puck_mass", unit="kg", low=0.005, high=0.5),)
    state_names: ClassVar = (
        *("slide", "slide_speed", "swing", "swing_rate"),
        *("x", "y", "z", "qx", "qy", "qz", "qw", "vx", "vy", "vz", "wx", "wy", "wz"),
    )
    max_episode_steps: ClassVar = 80
    discrete_actions: ClassVar = ((-1.0, 0.0), (1.0, -1.0), (1.0, 1.0))
    gravity: ClassVar = 9.81
    agent_camera: ClassVar = Camera(
        eye=(0.0, -0.7, 0.9), target=(0.0, 0.0, 0.0), fov=45.0, shadow=False
    )

    def __post_init__(self):
        super().__post_init__()
        self._require("speed", 0.01, 2, "m/s")

    @property
    def actuators(self):
        return (
            Actuator(joint="slide", scale=self.speed, kind="velocity"),
            Actuator(
                joint="swing", scale=0.8, kind="position", centre=0.1, max_force=2, max_velocity=6
            ),
        )

    def build(self, world, num_envs):
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(HERE / "shover.urdf", ("slide", "swing"))
        scene.add_object(HERE / "puck.urdf", (0.0, 0.0, 0.02))
        return scene

    def set_parameters(self, scene, index):
        share = self.puck_mass / PUCK.mass
        inertia = [share * one for one in PUCK.inertia]
        scene.body(index, "puck").set_mass("puck", self.puck_mass, inertia)

    def rest(self):
        return (*[0.0] * 4, 0.1, 0.0, 0.02, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6)

    def sample_initial_state(self, rng):
        x, y = rng.uniform(-0.04, 0.04, 2).tolist()
        slide, swing = rng.uniform(-0.05, 0.05, 2).tolist()
        state = list(self.rest())
        state[0], state[2], state[4:7] = slide, swing, (0.08 + x, y, 0.02)
        return state

    def observe(self, state):
        return (*state[:6], *state[11:13])

    @property
    def observed_names(self):
        return (*self.state_names[:6], *self.state_names[11:13])

    def observation_bounds(self):
        return (100.0,) * 8

    def terminated(self, state):
        x, y = state[4:6]
        return (abs(x) > 0.2) | (abs(y) > 0.15)

    def reward(self, state, action, next_state):
        return next_state[4] - state[4]

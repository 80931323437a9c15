"""Environments with one mistake each, for tests/test_certificate.py: tasks and plain ones.

``PLANTED`` names the check that must find each of them.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from robots import ElbowArm

from bullet_envs import Parameter, assets
from bullet_envs.engine.silence import p, silenced
from bullet_envs.tasks.cart_pole import CartPole

PLANTED = {}  # id -> the check that must fail, and words of its summary


def planted(check, words=""):
    """Register a class, a task or a plain environment, and the words that must name its mistake."""

    def register(kind):
        env_id = f"{kind.__name__}-v0"
        path = f"{__name__}:{kind.__name__}"
        if issubclass(kind, gym.Env):
            gym.register(env_id, path, max_episode_steps=100)
        else:  # as register_task does, which would show them to all other tests
            gym.register(
                env_id,
                "bullet_envs.env:BulletEnv",
                vector_entry_point="bullet_envs.vector:BulletVectorEnv",
                max_episode_steps=kind.max_episode_steps,
                order_enforce=False,
                kwargs={"task": path, "observer": "state"},
            )
        if check:
            PLANTED[env_id] = check, words
        return kind

    return register


@planted("seeds", "np.random")
class GlobalStart(CartPole):
    def sample_initial_state(self, rng):
        return tuple(np.random.normal(0, 0.02, 4).tolist())


@planted("seeds", "draws from random")
class GlobalNoise(CartPole):
    def observe(self, state):
        x, *others = state
        return (x + random.gauss(0, 0.001), *others)


OWN = np.random.default_rng(7)


@planted("seeds")
class OwnGenerator(CartPole):
    def sample_initial_state(self, rng):
        return tuple(OWN.uniform(-0.05, 0.05, 4).tolist())


class RawScene:
    """A cart-pole that is loaded by PyBullet itself."""

    def __init__(self, world, actuators, flags=p.URDF_USE_INERTIA_FROM_FILE):
        self.actuators = actuators
        self.client = world.client
        with silenced():
            self.body = p.loadURDF(
                str(assets.path("cart_pole.urdf")),
                useFixedBase=True,
                flags=flags,
                physicsClientId=self.client,
            )
        infos = [p.getJointInfo(self.body, j, self.client) for j in range(2)]
        self.joints = [[info[1] for info in infos].index(name) for name in (b"slider", b"hinge")]

    def free(self):
        """Undo the motor and the damping that PyBullet gives every joint and link."""
        of_body = {"bodyUniqueId": self.body, "physicsClientId": self.client}
        for joint in self.joints:
            p.setJointMotorControl2(
                **of_body, jointIndex=joint, controlMode=p.VELOCITY_CONTROL, force=0
            )
            p.changeDynamics(**of_body, linkIndex=joint, linearDamping=0, angularDamping=0)

    def set_state(self, states):
        for state in states.values():
            for i, joint in enumerate(self.joints):
                place = state[2 * i : 2 * i + 2]
                p.resetJointState(self.body, joint, *place, physicsClientId=self.client)

    def act(self, commands):
        p.setJointMotorControl2(
            *(self.body, self.joints[0], p.TORQUE_CONTROL),
            force=commands[0],
            physicsClientId=self.client,
        )

    def state(self):
        states = [p.getJointState(self.body, joint, self.client)[:2] for joint in self.joints]
        return [number for state in states for number in state]


class OwnScene(CartPole):
    """Healthy, though it does not use this package's scenes."""

    parameters: ClassVar = ()
    perturbation_presets: ClassVar = {}
    envs_per_world: ClassVar = 1
    bullet_substeps: ClassVar = False

    def build(self, world, num_envs):
        scene = RawScene(world, self.actuators)
        scene.free()
        return scene


planted("")(OwnScene)


@planted("model", "theta")
class InertiaOfShapes(OwnScene):
    """PyBullet reads the inertia of a URDF only if it is asked to."""

    def build(self, world, num_envs):
        scene = RawScene(world, self.actuators, flags=0)
        scene.free()
        return scene


@planted("motors", "slider 1")
class DefaultMotors(OwnScene):
    def build(self, world, num_envs):
        return RawScene(world, self.actuators)


@planted("motors", "hinge")
class HingeMotor(OwnScene):
    """That of the driven joint is off, the other one's is not."""

    def build(self, world, num_envs):
        scene = RawScene(world, self.actuators)
        p.setJointMotorControl2(
            *(scene.body, scene.joints[0], p.VELOCITY_CONTROL),
            force=0,
            physicsClientId=world.client,
        )
        return scene


@planted("motors", "slider")
class DefaultDrag(OwnScene):
    """The motors are off, the damping of 0.04 that PyBullet gives every link is not."""

    def build(self, world, num_envs):
        scene = RawScene(world, self.actuators)
        for joint in scene.joints:
            p.setJointMotorControl2(
                *(scene.body, joint, p.VELOCITY_CONTROL), force=0, physicsClientId=world.client
            )
        return scene


@planted("motors", "elbow 0.006 N·m")
class WeakMotor(ElbowArm):
    """A motor that holds with hardly more than the joint's friction."""

    def build(self, world, num_envs):
        scene = super().build(world, num_envs)
        body = scene.body(0, "upper")
        (elbow,) = body.joints("elbow")
        body.drive_velocity(elbow, 0.0, 0.006)
        return scene


@planted("motors", "hinge")
class UndeclaredDamping(CartPole):
    def build(self, world, num_envs):
        scene = super().build(world, num_envs)
        for index in range(num_envs):
            pole = scene.link("pole")
            scene.set_link(index, "pole", pole.mass, pole.inertia, damping=0.001)
        return scene


@planted("model", "at 1000 Hz")
class WrongEquations(CartPole):
    def rates(self, state, effort):
        return CartPole(pole_length=1.1).rates(state, effort)


@planted("bounds", "(x_dot)")
class NarrowSpeed(CartPole):
    def observation_bounds(self):
        x, _, theta, theta_dot = super().observation_bounds()
        return x, 3.0, theta, theta_dot


@planted("bounds", "(shoulder_rate)")
class NarrowElbow(ElbowArm):
    """The elbow's limit is 1 rad, and soft."""

    def observation_bounds(self):
        return {"arm": (10.0, 1.0, 10.0, 10.0), "goal": (1.0, 1.0)}


@planted("reward", "observation['goal'][0]")
class KeptReward(ElbowArm):
    def reward(self, state, action, next_state):
        reward = -self._distance(next_state)
        object.__setattr__(self, "_kept", reward)
        return reward

    def observe(self, state):
        arm = super().observe(state)["arm"]
        return {"arm": arm, "goal": (getattr(self, "_kept", 0.0), *state[4:])}

    def observation_bounds(self):
        return {"arm": (10.0,) * 4, "goal": (2.0, 1.0, 1.0)}

    def sample_initial_state(self, rng):
        object.__setattr__(self, "_kept", 0.0)
        return super().sample_initial_state(rng)


@planted("reward", "observation[4]")
class AskedReward(CartPole):
    def reward(self, state, action, next_state):
        return 1.0 - abs(next_state[2])

    def observe(self, state):
        return (*state, self.reward(state, (0.0,), state))

    @property
    def observed_names(self):
        return (*self.state_names, "reward")

    def observation_bounds(self):
        return (*super().observation_bounds(), 4.0)


RETURN = [0.0]


@planted("reward")
class KeptReturn(CartPole):
    def reward(self, state, action, next_state):
        RETURN[0] = min(RETURN[0] + 1.0, 1e6)
        return 1.0

    def observe(self, state):
        return (*state, RETURN[0])

    @property
    def observed_names(self):
        return (*self.state_names, "return")

    def observation_bounds(self):
        return (*super().observation_bounds(), 1e6)

    def sample_initial_state(self, rng):
        RETURN[0] = 0.0
        return super().sample_initial_state(rng)


@planted("leak", "reward is")
class LastAction(ElbowArm):
    """What the reward compares the action with is not reset."""

    def reward(self, state, action, next_state):
        last = getattr(self, "_last", action)
        object.__setattr__(self, "_last", action)
        return -np.abs(action[0] - last[0])


@planted("leak")
class SharedHistory(CartPole):
    """A list that all tasks of a process share grows from episode to episode."""

    history: ClassVar[list] = []

    def sample_initial_state(self, rng):
        self.history.append(rng.uniform(-0.02, 0.02))
        return (sum(self.history[-5:]) / 5, 0.0, 0.0, 0.0)


@planted("leak")
class Curriculum(CartPole):
    def sample_initial_state(self, rng):
        count = getattr(self, "_count", 0)
        object.__setattr__(self, "_count", count + 1)
        half = 0.05 * min(1, 0.2 + count / 20)
        return tuple(rng.uniform(-half, half, 4).tolist())


@planted("types", "float64")
class DoubleSpace(CartPole):
    @property
    def observation_space(self):
        space = super().observation_space
        return spaces.Box(space.low.astype(float), space.high.astype(float), dtype=np.float64)


@planted("finite", "observation['arm']")
class Bearing(ElbowArm):
    """The logarithm of a speed, which is 0 after each reset."""

    def observe(self, state):
        observed = super().observe(state)
        shoulder, elbow, shoulder_rate, _ = observed["arm"]
        with np.errstate(all="ignore"):
            return {**observed, "arm": (shoulder, elbow, shoulder_rate, 1e-3 * np.log(state[3]))}


@planted("finite", "x=nan")
class RareState(CartPole):
    def sample_initial_state(self, rng):
        x = float("nan") if rng.random() < 0.01 else 0.0
        return (x, *rng.uniform(-0.05, 0.05, 3).tolist())


@planted("finite", "ZeroDivisionError")
class DivisionAtRest(CartPole):
    """Python raises what NumPy warns of."""

    def reward(self, state, action, next_state):
        return abs(next_state[0] - state[0]) / abs(next_state[1])


@planted("finite", "ZeroDivisionError")
class Division(CartPole):
    def reward(self, state, action, next_state):
        return 1 / (0.0 if 0.4 < next_state[1] < 0.45 else 1.0)


@planted("finite", "reward is inf")
class FarReward(CartPole):
    def reward(self, state, action, next_state):
        with np.errstate(all="ignore"):
            return np.where(np.abs(next_state[0]) > 1.0, np.inf, 1.0)


@planted("time_limit", "terminated")
class CountedSteps(CartPole):
    """Random actions let the pole fall long before."""

    def sample_initial_state(self, rng):
        object.__setattr__(self, "_steps", 0)
        return super().sample_initial_state(rng)

    def terminated(self, state):
        steps = getattr(self, "_steps", 0) + 1
        object.__setattr__(self, "_steps", steps)
        return super().terminated(state) | (steps > 400)


@planted("time_limit")
class CountedRewards(ElbowArm):
    max_episode_steps: ClassVar = 200

    def sample_initial_state(self, rng):
        object.__setattr__(self, "_steps", 0)
        return super().sample_initial_state(rng)

    def reward(self, state, action, next_state):
        object.__setattr__(self, "_steps", getattr(self, "_steps", 0) + 1)
        return super().reward(state, action, next_state)

    def terminated(self, state):
        return getattr(self, "_steps", 0) >= 40


@planted("randomisation", "wind")
@dataclass(frozen=True, kw_only=True)
class IdleParameter(CartPole):
    wind: float = 0.0
    parameters: ClassVar = (
        *CartPole.parameters,
        Parameter(name="wind", unit="N", low=-1, high=1),
    )


@planted("randomisation", "cart_mass=0.1 kg")
class ForgottenParameter(CartPole):
    def set_parameters(self, scene, index):
        from dataclasses import replace

        CartPole.set_parameters(replace(CartPole(), pole_length=self.pole_length), scene, index)


@planted("randomisation", "the preset 'none'")
class IdlePreset(CartPole):
    perturbation_presets: ClassVar = {
        "mild": {"parameters": {"pole_mass": {"uniform": [0.9, 1.1], "operation": "scale"}}},
        "none": {"parameters": {"pole_mass": {"uniform": [1.0, 1.0], "operation": "scale"}}},
    }


@planted("observation", "observation[0]")
class CountedLooks(CartPole):
    """It observes how often it was observed in the episode."""

    def sample_initial_state(self, rng):
        object.__setattr__(self, "_looks", 0)
        return super().sample_initial_state(rng)

    def observe(self, state):
        looks = getattr(self, "_looks", 0) + 1
        object.__setattr__(self, "_looks", looks)
        x, *others = state
        return (x + 1e-6 * (looks % 1000), *others)


@planted("snapshot", "reward")
class FadingReward(ElbowArm):
    """A snapshot has nothing of what a task keeps to itself."""

    def sample_initial_state(self, rng):
        object.__setattr__(self, "_reward", 1.0)
        return super().sample_initial_state(rng)

    def reward(self, state, action, next_state):
        object.__setattr__(self, "_reward", 0.9 * getattr(self, "_reward", 1.0))
        return self._reward


class PointMass(gym.Env):
    """A mass of 1 kg on a line, pushed by a force. Healthy."""

    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata: ClassVar = {"render_modes": []}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.v = self.np_random.uniform(-1, 1, 2).tolist()
        return self.observe(), {}

    def step(self, action):
        self.v = min(5.0, max(-5.0, self.v + 0.1 * float(action[0])))
        self.x += 0.1 * self.v
        terminated = abs(self.x) > 3
        reward = -self.x * self.x - 0.1 * float(action[0]) ** 2
        return self.observe(), reward, terminated, False, {}

    def observe(self):
        return np.array([self.x, self.v], np.float32)


planted("")(PointMass)


@planted("seeds", "np.random")
class GlobalReset(PointMass):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.random.uniform(-1, 1)
        return self.observe(), {}


@planted("seeds")
class GlobalSeed(PointMass):
    """It seeds the generator that all share."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        return super().step(action + np.float32(0.01 * random.random()))


@planted("seeds")
class HashOrder(PointMass):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = {"left": -0.5, "right": 0.5, "middle": 0.0}[
            next(iter({"left", "right", "middle"}))
        ]
        return self.observe(), {}


@planted("seeds", "reset(seed) does not seed")
class IgnoredSeed(PointMass):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        generator = getattr(self, "generator", None)
        if generator is None or seed is not None:
            self.generator = np.random.default_rng(0)
        self.x, self.v = self.generator.uniform(-1, 1, 2).tolist()
        return self.observe(), {}


@planted("bounds", "observation[1]")
class NarrowBound(PointMass):
    observation_space = spaces.Box(-np.float32([3.5, 2.5]), np.float32([3.5, 2.5]))


class WithColumn(PointMass):
    """Observes one number more."""

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float32)
    column = 0.0

    def reset(self, *, seed=None, options=None):
        self.column = 0.0
        return super().reset(seed=seed)

    def observe(self):
        return np.array([self.x, self.v, self.column], np.float32)


@planted("reward", "observation[2] is the reward of the step,")
class AppendedReward(WithColumn):
    def step(self, action):
        observation, reward, *flags = super().step(action)
        observation[2] = reward
        return observation, reward, *flags


@planted("reward", "observation[2] is the return so far")
class ScaledReturn(WithColumn):
    def step(self, action):
        observation, reward, *flags = super().step(action)
        self.column += reward
        observation[2] = self.column / 100
        return observation, reward, *flags


@planted("reward", "observation[2] is the reward of the step before")
class EarlierReward(WithColumn):
    def step(self, action):
        result = super().step(action)
        self.column = result[1]
        return result


@planted("leak")
class KeptIntegral(PointMass):
    integral = 0.0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.integral += 0.01 * self.x
        return observation, reward - self.integral, *rest


@planted("leak")
class KeptSpeed(PointMass):
    v = 0.0

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        return self.observe(), {}


@planted("types", "float64")
class DoubleObservation(PointMass):
    def observe(self):
        return np.array([self.x, self.v])


@planted("types", "float32")
class SingleReward(PointMass):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.float32(reward), *rest


@planted("types", "numpy.bool")
class NumpyFlag(PointMass):
    def step(self, action):
        observation, reward, terminated, *rest = super().step(action)
        return observation, reward, np.bool_(terminated), *rest


@planted("memory", "same memory")
class OneBuffer(PointMass):
    def __init__(self):
        self.buffer = np.zeros(2, np.float32)

    def observe(self):
        self.buffer[:] = self.x, self.v
        return self.buffer


@planted("memory")
class TwoBuffers(PointMass):
    """Steps return two arrays by turns."""

    def __init__(self):
        self.buffers = [np.zeros(2, np.float32) for _ in range(2)]

    def observe(self):
        self.buffers.reverse()
        self.buffers[0][:] = self.x, self.v
        return self.buffers[0]


class ArrayState(PointMass):
    """Its state is the array that it returns."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.state, {}

    def step(self, action):
        x, v = self.state
        v = np.clip(v + np.float32(0.1) * action[0], -5, 5)
        self.state = np.array([x + np.float32(0.1) * v, v], np.float32)
        return self.state, -float(x * x), bool(abs(x) > 3), False, {}


planted("memory", "writing to a returned observation")(ArrayState)


@planted("memory")
class ClassState(PointMass):
    """All environments have one state."""

    shared: ClassVar = np.zeros(2)

    x = property(lambda self: float(self.shared[0]), lambda self, x: self.shared.__setitem__(0, x))
    v = property(lambda self: float(self.shared[1]), lambda self, v: self.shared.__setitem__(1, v))


@planted("memory", "action")
class WrittenAction(PointMass):
    def step(self, action):
        action *= 0.5
        return super().step(action)


@planted("finite", "nan")
class Root(PointMass):
    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)

    def observe(self):
        with np.errstate(all="ignore"):
            return np.array([self.x, np.sqrt(2.4 - abs(self.v))], np.float32)


@planted("finite")
class Ratio(PointMass):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1 / (1 if abs(self.x) < 2.9 else 0), *rest


@planted("time_limit", "after 60 steps")
class Counted(PointMass):
    steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, terminated, *rest = super().step(action)
        self.steps += 1
        return observation, reward, terminated or self.steps >= 60, *rest


@planted("time_limit", "after 90 steps")
class CountedBalance(PointMass):
    """Only a policy that balances lasts until the limit."""

    steps = 0

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        super().reset(seed=seed)
        self.x, self.v = self.np_random.uniform(-0.05, 0.05, 2).tolist()
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        self.v += 0.05 * self.x + 0.05 * float(np.sign(action[0]))
        self.x += 0.1 * self.v
        ended = abs(self.x) > 0.5 or self.steps >= 90
        return self.observe(), 1.0, ended, False, {}


@planted("randomisation", "draws random numbers")
class IdleDraw(PointMass):
    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.mass = self.np_random.uniform(0.5, 2.0)
        self.x, self.v = 0.5, 0.0
        return self.observe(), {}


@planted("vector")
class ArrayTermination(CartPole):
    """What differs for arrays of one and of many sub-environments."""

    def reward(self, state, action, next_state):
        return 1.0 - 0.01 * np.mean(next_state[0])


@planted("checker", "super().reset(seed=seed)")
class OwnSeed(PointMass):
    """It seeds a generator, and not that of Gymnasium's protocol."""

    def reset(self, *, seed=None, options=None):
        if seed is not None or not hasattr(self, "generator"):
            self.generator = np.random.default_rng(seed)
        self.x, self.v = self.generator.uniform(-1, 1, 2).tolist()
        return self.observe(), {}


class TimedScene(RawScene):
    """It counts steps, in a column of the state."""

    steps = 0.0

    def set_state(self, states):
        super().set_state(states)
        for state in states.values():
            self.steps = state[4]

    def act(self, commands):
        super().act(commands)
        self.steps += 1.0

    def state(self):
        return [*super().state(), self.steps]


@planted("time_limit", "terminate after 6 steps")
class CountedInState(OwnScene):
    state_names: ClassVar = (*CartPole.state_names, "steps")

    def build(self, world, num_envs):
        scene = TimedScene(world, self.actuators)
        scene.free()
        return scene

    def rest(self):
        return (*super().rest(), 0.0)

    def rates(self, state, effort):
        return None

    def sample_initial_state(self, rng):
        return (*super().sample_initial_state(rng), 0.0)

    def observe(self, state):
        return state[:4]

    @property
    def observed_names(self):
        return self.state_names[:4]

    def terminated(self, state):
        return super().terminated(state[:4]) | (state[4] >= 12)


class ObservedTime(WithColumn):
    """Healthy: its episodes have one length, and the observation tells how much of it is over."""

    def step(self, action):
        self.column += 1
        observation, reward, _, *rest = super().step(action)
        self.x = min(3.0, max(-3.0, self.x))
        return observation, reward, self.column >= 50, *rest


planted("")(ObservedTime)


class ObservedCost(PointMass):
    """Healthy: the reward is a part of the state."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, -float(observation[0]), *rest


planted("")(ObservedCost)


class ShortEpisodes(PointMass):
    """Healthy: two to four steps lead to the end, as they happen to be long."""

    def step(self, action):
        self.x += 0.5 + self.np_random.uniform(0, 1)
        return self.observe(), 1.0, self.x >= 2, False, {}


planted("")(ShortEpisodes)

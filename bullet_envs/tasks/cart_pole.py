"""The task of BulletCartPole-v0."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import assets
from ..camera import Camera
from ..engine import MAX_SPEED
from ..engine.urdf import read_links, stretched
from ..equations_of_motion import cart_pole_rates
from ..perturbation_scaling import scaled
from ..registration import register_task
from ..scene import Actuator, ContactFreeScene
from ..task import Parameter, State, Task

if TYPE_CHECKING:
    from ..engine.world import World

_LINKS = read_links(assets.path("cart_pole.urdf"))
_CART, _POLE = _LINKS["cart"], _LINKS["pole"]
_POLE_LENGTH = _POLE.visual_size[2]  # m
SHORTEST_POLE = 0.4  # m

_PERTURBATIONS: dict[str, Any] = {
    "parameters": {
        "force": {"log_uniform": [1 / 1.3, 1.3], "operation": "scale"},
        "cart_mass": {"log_uniform": [1 / 1.2, 1.2], "operation": "scale"},
        "pole_mass": {"log_uniform": [1 / 1.3, 1.3], "operation": "scale"},
        "pole_length": {"log_uniform": [1 / 1.2, 1.2], "operation": "scale"},
        "cart_friction": {"uniform": [0.0, 0.5], "operation": "add"},
        "pole_friction": {"uniform": [0.0, 0.01], "operation": "add"},
    },
    "actions": {"delay": 1, "noise": {"slider": 2.0}},
    "observations": {
        "delay": 1,
        "noise": {"x": 0.05, "x_dot": 0.2, "theta": 0.02, "theta_dot": 0.2},
        "dropped": {"probability": 0.05},
    },
    "images": {"brightness": {"uniform": [0.9, 1.1]}, "noise": 5.0, "camera": 0.005},
    "pushes": [
        {"body": "pole", "direction": [1, 0, 0], "impulse": {"uniform": [-0.03, 0.03]}, "rate": 0.5}
    ],
}
# Where an LQG keeps 490 of 500, half of it, and where it keeps 250: benchmarks/presets.csv.
_SCALES = {"easy": 0.775, "medium": 1.55, "hard": 2.25}


def _realworldrl(delay: int, noise: float, fault: float, steps: int, length: Any) -> dict[str, Any]:
    """Return the combined challenge of realworldrl_suite (Dulac-Arnold et al., 2020).

    Its control period is 0.01 s: delays and faults last as long here, rounded up to periods. Its
    noise is given in units of its observation (m, m/s, rad, rad/s) and of its actuator (10 N).
    """
    fault_of = {"probability": fault, "steps": steps}
    return {
        "parameters": {"pole_length": {"uniform": length, "operation": "scale"}},
        "actions": {"delay": delay, "noise": {"slider": 10 * noise}},
        "observations": {
            "delay": delay,
            "noise": dict.fromkeys(("x", "x_dot", "theta", "theta_dot"), noise),
            "dropped": fault_of,
            "stuck": fault_of,
        },
    }


@register_task("BulletCartPole")
@dataclass(frozen=True, kw_only=True)
class CartPole(Task):
    """Keep a hinged pole upright by pushing its cart left or right.

    The rigid-body twin of Gymnasium's CartPole-v1: the same bodies, forces, limits and rate, with
    a pole that is a solid box and a physics step half as long.

    Scene        ``cart_pole.urdf``: a cart (1.0 kg) on a rail along x, driven by a force, and a
                 pole (0.1 kg, 1.0 m) on a free hinge about y. No friction, no damping,
                 g = 9.8 m/s^2. theta is 0 upright and grows as the pole falls towards +x.

    Timing       physics 100 Hz, control 50 Hz (2 steps per action), limit 500 actions = 10 s

    Action       Discrete(2)

                 value  meaning         force (N)
                 0      push towards -x  -10
                 1      push towards +x  +10

                 With ``continuous=True`` Box(-1, 1, (1,), float32) in units of ``force``; values
                 beyond are clipped.

    Observation  Box((4,), float32)

                 i  symbol     meaning          unit   low     high   scale
                 0  x          cart position    m      -4.4    4.4    1
                 1  x_dot      cart speed       m/s    -100    100    1
                 2  theta      pole angle       rad    -2.21   2.21   1
                 3  theta_dot  pole speed       rad/s  -100    100    1

                 The bounds are where one action can lead past a limit at Bullet's greatest speed.
                 The observation is the whole state.

    Pixels       With ``observer="pixels"``, the default of BulletCartPolePixels-v0, the
                 observation is instead one image, Box(0, 255, (64, 64, 3), uint8): a side view
                 1.6 m across that follows the cart. The rail's colours show where the cart is.
                 The image is drawn from the state alone, so speeds must be told from several.
                 Its keywords: :class:`~bullet_envs.observers.PixelObserver`.

    Reward       1 per action, the last one included; at most 500.

    Start        each of the four columns ~ U(-0.05, 0.05).

    End          terminated: abs(x) > 2.4 m or abs(theta) > 12 deg.
                 truncated: after 500 actions, by gymnasium's TimeLimit.

    Options      keyword      type   default  legal           meaning
                 force        float  10       0.1 to 1000     N, force of a full action
                 cart_mass    float  1        0.1 to 10       kg
                 pole_mass    float  0.1      0.01 to 1       kg
                 pole_length  float  1        0.4 to 4        m
                 cart_friction  float  0      0 to 10         N s/m, viscous
                 pole_friction  float  0      0 to 1          N m s/rad, viscous
                 x_limit      float  2.4      0.1 to 15       m
                 angle_limit  float  0.20944  0.01 to 3.1416  rad
                 start_range  float  0.05     0 to 0.2        half-width of each column's start
                 physics_hz   int    100      10 to 1000      a multiple of control_hz
                 control_hz   int    50       10 to 1000
                 continuous   bool   False                    Box in place of Discrete

                 The hand-made original (50 N only because the slider's default motor had been
                 left on) is ``control_hz=20, force=50, x_limit=10``.

    Physics      Equal to a semi-implicit Euler of the textbook equations to 1e-9. Against the
                 exact solution, in 0.5 s of random play (``benchmarks/convergence.py``, worst of
                 2000 runs), 100 Hz errs by 0.84 deg and 10.6 mm, 1000 Hz by a tenth of that at 3
                 times the cost.

    Versions     v0  first release.
    """

    force: float = 10.0
    cart_mass: float = _CART.mass
    pole_mass: float = _POLE.mass
    pole_length: float = _POLE_LENGTH
    cart_friction: float = 0.0
    pole_friction: float = 0.0
    x_limit: float = 2.4
    angle_limit: float = 12 * np.pi / 180
    start_range: float = 0.05

    state_names: ClassVar[tuple[str, ...]] = ("x", "x_dot", "theta", "theta_dot")
    reward_threshold: ClassVar[float | None] = 475.0
    has_equilibrium: ClassVar[bool] = True
    discrete_actions: ClassVar[tuple[tuple[float, ...], ...] | None] = ((-1.0,), (1.0,))
    envs_per_world: ClassVar[int] = 32
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="force", unit="N", low=0.1, high=1000),
        Parameter(name="cart_mass", unit="kg", low=0.1, high=10),
        Parameter(name="pole_mass", unit="kg", low=0.01, high=1),
        Parameter(name="pole_length", unit="m", low=SHORTEST_POLE, high=4, visible=True),
        Parameter(name="cart_friction", unit="N·s/m", low=0, high=10),
        Parameter(name="pole_friction", unit="N·m·s/rad", low=0, high=1),
    )
    perturbation_template: ClassVar[dict[str, Any]] = _PERTURBATIONS
    perturbation_presets: ClassVar[dict[str, dict[str, Any]]] = {
        **{name: scaled(_PERTURBATIONS, scale) for name, scale in _SCALES.items()},
        "rwrl-easy": _realworldrl(2, 0.1, 0.01, 1, [0.9, 1.1]),
        "rwrl-medium": _realworldrl(3, 0.3, 0.05, 3, [0.7, 1.7]),
        "rwrl-hard": _realworldrl(5, 1.0, 0.1, 5, [0.5, 2.3]),
    }
    video_camera: ClassVar[Camera] = Camera(
        eye=(0.0, -4.9, 1.15), target=(0.0, 0.0, 0.02), fov=32.0, light=(-0.5, -0.6, 1.2)
    )
    floor_height: ClassVar[float] = -0.585
    # Rolled by 25 degrees: an upright edge moves whole pixels or not at all, a slanted one shows
    # every fraction of a pixel somewhere along its length.
    agent_camera: ClassVar[Camera] = Camera(
        eye=(0.0, -6.0, 1.0), target=(0.0, 0.0, 0.3), fov=15.2, shadow=False, up=(0.423, 0.0, 0.906)
    )

    def __post_init__(self) -> None:
        """Check the keywords."""
        super().__post_init__()
        self._require("x_limit", 0.1, 15, "m")
        self._require("angle_limit", 0.01, 3.1416, "rad")
        self._require("start_range", 0, 0.2, "m and rad, m/s and rad/s")
        if self.start_range > min(self.x_limit, self.angle_limit):
            raise ValueError(
                f"start_range={self.start_range!r} must not pass x_limit={self.x_limit!r} or"
                f" angle_limit={self.angle_limit!r}"
            )

    @property
    def actuators(self) -> tuple[Actuator, ...]:
        """A force on the cart."""
        return (Actuator(joint="slider", scale=self.force),)

    def observation_bounds(self) -> tuple[float, ...]:
        """Return the largest absolute value of each column of the observation."""
        return self._reach(self.x_limit), MAX_SPEED, self._reach(self.angle_limit), MAX_SPEED

    def rest(self) -> State:
        """Return the pole upright on a cart in the middle."""
        return 0.0, 0.0, 0.0, 0.0

    def sample_initial_state(self, rng: np.random.Generator) -> State:
        """Return four columns from U(-start_range, start_range)."""
        return tuple(rng.uniform(-self.start_range, self.start_range, 4).tolist())

    def observe(self, state: State) -> State:
        """Return the whole state."""
        return state

    def camera_target(self, state: State) -> tuple[float, float, float]:
        """Return the cart's position (m)."""
        return state[0], 0.0, 0.0

    def terminated(self, state: State) -> Any:
        """Return whether cart or pole is past its limit."""
        x, _, theta, _ = state
        return (abs(x) > self.x_limit) | (abs(theta) > self.angle_limit)

    def failure(self, state: State) -> str:
        """Say which limit a state has passed."""
        if abs(state[0]) > self.x_limit:
            return f"cart beyond {self.x_limit:g} m"
        return f"pole beyond {self.angle_limit:.3g} rad"

    @property
    def tolerances(self) -> tuple[float, ...]:
        """What a regulator weighs as 1: m, m/s, rad, rad/s."""
        return 0.5, 1.0, 0.1, 0.5

    @property
    def bullet_substeps(self) -> bool:  # type: ignore[override]
        """Whether Bullet divides a control period: not with friction, which it would then hold."""
        return not (self.cart_friction or self.pole_friction)

    def build(self, world: World, num_envs: int) -> ContactFreeScene:
        """Load carts, poles and a rail. Nothing of them touches, and no joint has a limit."""
        path = assets.path("cart_pole.urdf")
        share = (1.0, 1.0, self.pole_length / _POLE_LENGTH)
        with stretched(path, "pole", share) as urdf:
            return ContactFreeScene(world, num_envs, self.actuators, urdf, ("slider", "hinge"))

    def decorate(self, world: World) -> None:
        """Mark the limits of the cart's position, and leave the colours to cart and pole."""
        world.add_box((9.0, 0.124, 0.054), (0.0, 0.0, -0.11), (0.6, 0.63, 0.68))  # over the rail
        for side in (-1, 1):
            world.add_box((0.03, 0.2, 0.16), (side * self.x_limit, 0.0, -0.11), (0.85, 0.2, 0.15))
        world.paint("cart", (0.16, 0.36, 0.62))
        world.paint("pole", (0.9, 0.42, 0.16))

    def rates(self, state: Any, effort: Any) -> Any:
        """Return d(state)/dt by Lagrange's equations."""
        return cart_pole_rates(state, effort, self)

    def world_task(self, perturbed: Collection[str]) -> CartPole:
        """Return the task with the shortest pole, of which :meth:`set_parameters` makes any other.

        It has friction too if that is to be changed, or if such a pole is pushed, so that Bullet
        takes single steps, in each of which it is told the force again.
        """
        changed: dict[str, Any] = {}
        if "pole_length" in perturbed:
            changed["pole_length"] = SHORTEST_POLE
        frictions = {"cart_friction", "pole_friction"}
        if frictions.intersection(perturbed) or (changed and "pushes" in perturbed):
            changed["cart_friction"] = 1.0
        return replace(self, **changed)

    def set_parameters(self, scene: ContactFreeScene, index: int) -> None:
        """Give a cart and its pole masses, inertias, friction and, by these, a length.

        The loaded pole of half-length d moves as a pole of mass m, half-length l and moment I if
        its mass is m l / d, its moment I + m l² - m l d, and the cart has what is left of the mass
        of both: the equations of motion contain no other combination of them.
        """
        loaded, half = scene.link("pole").centre[2], self.pole_length / 2
        share = self.pole_mass / _POLE.mass
        width, depth, _ = _POLE.visual_size
        mass, cart_mass = self.pole_mass, self.cart_mass
        about_x, about_y, about_z = (share * one for one in _POLE.inertia)
        if self.pole_length != _POLE_LENGTH:
            about_x = mass / 12 * (depth**2 + self.pole_length**2)
            about_y = mass / 12 * (width**2 + self.pole_length**2)
        if half != loaded:
            carried = mass * half
            about_x += carried * (half - loaded)
            about_y += carried * (half - loaded)
            mass = carried / loaded
            cart_mass = self.cart_mass + self.pole_mass - mass
            if cart_mass < 0:
                raise ValueError(
                    f"cart_mass={self.cart_mass:g} is too light to change pole_length to"
                    f" {self.pole_length:g} with pole_mass={self.pole_mass:g}: it must be at least"
                    f" {mass - self.pole_mass:g} kg"
                )
        of_pole = (about_x, about_y, about_z)
        scene.set_link(index, "pole", mass, of_pole, self.pole_friction, (0, 0, half - loaded))
        of_cart = tuple(cart_mass / _CART.mass * one for one in _CART.inertia)
        scene.set_link(index, "cart", cart_mass, of_cart, self.cart_friction)

"""The task of BalancingPlate-v0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import assets
from ..camera import Camera
from ..engine import MAX_PHYSICS_HZ, MAX_SPEED
from ..engine.urdf import read_links, stretched
from ..equations_of_motion import plate_rates
from ..perturbation_scaling import scaled
from ..registration import register_task
from ..scene import Actuator, BodyScene
from ..task import Parameter, State, Task

if TYPE_CHECKING:
    from ..engine.world import World

_LINKS = read_links(assets.path("balancing_plate.urdf"))
_PLATE, _RING = _LINKS["plate"], _LINKS["ring"]
_BALL = read_links(assets.path("ball.urdf"))["ball"]
HALF_SIDE = _PLATE.collision_size[0] / 2  # m
BALL_RADIUS = _BALL.collision_size[0]  # m
HALF_THICKNESS = _PLATE.collision_size[2] / 2  # m
LIFT_LIMIT = 0.15  # m, a ball this high above its resting place has left the plate
PENETRATION = 2e-3  # m, deeper than any contact that the solver leaves

_ROLLS_FROM = 0.1  # sliding friction: with less, random actions make the ball slip
_PERTURBATIONS: dict[str, Any] = {
    "parameters": {
        "torque": {"log_uniform": [1 / 1.3, 1.3], "operation": "scale"},
        "ball_mass": {"log_uniform": [1 / 1.5, 1.5], "operation": "scale"},
        "plate_mass": {"log_uniform": [1 / 1.3, 1.3], "operation": "scale"},
        "ring_mass": {"log_uniform": [1 / 1.3, 1.3], "operation": "scale"},
        "sliding_friction": {"uniform": [0.8, 1.2], "operation": "scale"},
        "rolling_friction": {"uniform": [0.0, 1e-4], "operation": "add"},
    },
    "actions": {"delay": 1, "noise": {"pitch": 0.001, "roll": 0.001}},
    "observations": {
        "delay": 1,
        "noise": {
            **dict.fromkeys(("ball_x", "ball_y", "ball_z"), 0.003),
            **dict.fromkeys(("ball_vx", "ball_vy", "ball_vz"), 0.02),
            **dict.fromkeys(("pitch", "roll"), 0.01),
            **dict.fromkeys(("pitch_rate", "roll_rate"), 0.05),
        },
        "dropped": {"probability": 0.05},
    },
    "images": {"brightness": {"uniform": [0.9, 1.1]}, "noise": 5.0, "camera": 0.002},
    "pushes": [
        {"body": "ball", "direction": "random", "impulse": {"uniform": [0, 1.5e-4]}, "rate": 0.5}
    ],
}
# Where an LQG keeps 490 of 500, half of it, and where it keeps 250: benchmarks/presets.csv.
_SCALES = {"easy": 1.025, "medium": 2.05, "hard": 3.6}


@register_task("BalancingPlate")
@dataclass(frozen=True, kw_only=True)
class BalancingPlate(Task):
    """Keep a ping-pong ball on a plate by turning the plate about two axes.

    Scene        ``balancing_plate.urdf``: a ring (0.5 kg) turns about x (pitch) and carries a
                 plate (0.3 kg, 0.3 x 0.3 x 0.02 m) that turns about y (roll). A torque drives
                 each axis. ``ball.urdf``: a hollow ball (2.7 g, radius 0.02 m) rolls on the plate
                 without slipping. The origin is the centre of the plate, z is up,
                 g = 9.8 m/s^2, no damping. Positive roll lowers the +x edge, positive pitch
                 raises the +y edge. The ball's weight tips the plate further, so the system is
                 unstable, yet the torque rights it with the ball at the edge.

    Timing       physics 100 Hz, control 50 Hz (2 steps per action), limit 500 actions = 10 s

    Action       Discrete(4)

                 value  meaning  pitch, roll torque (N m)
                 0      (-, -)   -0.005, -0.005
                 1      (-, +)   -0.005, +0.005
                 2      (+, -)   +0.005, -0.005
                 3      (+, +)   +0.005, +0.005

                 With ``continuous=True`` Box(-1, 1, (2,), float32): pitch and roll torque in
                 units of ``torque``; values beyond are clipped.

    Observation  Box((10,), float32), each column divided by its scale

                 i  symbol      meaning               unit   low    high   scale
                 0  ball_x      ball position         m      -2.28  2.28   0.05
                 1  ball_y      ball position         m      -2.28  2.28   0.05
                 2  ball_z      ball position         m      -2.28  2.28   0.05
                 3  ball_vx     ball velocity         m/s    -100   100    0.1
                 4  ball_vy     ball velocity         m/s    -100   100    0.1
                 5  ball_vz     ball velocity         m/s    -100   100    0.1
                 6  pitch       joint angle about x   rad    -3.57  3.57   0.1
                 7  roll        joint angle about y   rad    -3.57  3.57   0.1
                 8  pitch_rate  joint speed about x   rad/s  -100   100    0.3
                 9  roll_rate   joint speed about y   rad/s  -100   100    0.3

                 Low and high are before the division. They are where one action can lead past an
                 end at Bullet's greatest speed. The ball's spin follows from its rolling.

    Pixels       With ``observer="pixels"``, the default of BalancingPlatePixels-v0, the
                 observation is instead one image, Box(0, 255, (64, 64, 3), uint8): a view from
                 straight above, 0.47 m across. A mast on the plate, drawn only, carries a red
                 tip, 0.3 m above it, which moves with the tilt. The image is drawn
                 from the state alone, so speeds must be told from several.
                 Its keywords: :class:`~bullet_envs.observers.PixelObserver`.

    Reward       1 per action, the last one included; at most 500.

    Start        in the plate's own axes the ball rests at U(-0.05, 0.05) m and rolls at
                 U(-0.05, 0.05) m/s along either side; pitch and roll ~ U(-0.05, 0.05) rad,
                 joint speeds 0.

    End          terminated: the ball has left the plate (its centre is past an edge, in the
                 plate's own axes, or 0.15 m above its resting place) or the plate is past
                 vertical. truncated: after 500 actions, by gymnasium's TimeLimit.

    Options      keyword         type   default  legal           meaning
                 torque          float  0.005    1e-05 to 0.05   N m, torque of a full action
                 ball_mass       float  0.0027   0.0001 to 0.1   kg, hollow whatever its mass
                 ball_radius     float  0.02     0.005 to 0.05   m
                 plate_mass      float  0.3      0.03 to 3       kg, inertia in proportion
                 ring_mass       float  0.5      0.05 to 5       kg, inertia in proportion
                 sliding_friction  float  1      0 to 2          of ball on plate
                 rolling_friction  float  0      0 to 0.01       m; at 100 Hz 15 to 30 % stronger
                 restitution     float  0        0 to 0.8        of ball and plate
                 ball_limit      float  0.15     0.02 to 0.15    m, where the ball has left
                 tilt_limit      float  1.5708   0.1 to 1.5708   rad, where the plate is lost
                 start_position  float  0.05     0 to 0.14       m, half-width of the ball's start
                 start_speed     float  0.05     0 to 1          m/s, half-width, either side
                 start_tilt      float  0.05     0 to 0.3        rad, half-width, either joint
                 drop_height     float  0        0 to 0.1        m, start above the plate
                 physics_hz      int    100      50 to 1000      a multiple of control_hz
                 control_hz      int    50       10 to 1000
                 continuous      bool   False                    Box in place of Discrete

                 The hand-made original is ``control_hz=100, torque=0.0003, ball_mass=0.0007,
                 drop_height=0.02``; that torque rights the plate only for a ball that starts
                 near its centre, e.g. ``start_position=0.01, start_tilt=0.01``.

    Physics      Against the exact solution, in 0.5 s of random play (``benchmarks/convergence.py``,
                 worst of 500 runs), 50 Hz errs by 0.48 deg and 6.1 mm, 100 Hz by 0.24 deg and
                 2.4 mm, 200 Hz by 0.12 deg and 1.2 mm, 1000 Hz by 0.02 deg and 0.2 mm at 3 times
                 the cost. 100 Hz ships because its error is about a tenth of the ball's radius.

    Versions     v0  first release.
    """

    torque: float = 0.005
    ball_mass: float = _BALL.mass
    ball_radius: float = BALL_RADIUS
    plate_mass: float = _PLATE.mass
    ring_mass: float = _RING.mass
    sliding_friction: float = 1.0
    rolling_friction: float = 0.0
    restitution: float = 0.0
    ball_limit: float = HALF_SIDE
    tilt_limit: float = np.pi / 2
    start_position: float = 0.05
    start_speed: float = 0.05
    start_tilt: float = 0.05
    drop_height: float = 0.0

    state_names: ClassVar[tuple[str, ...]] = (
        *("pitch", "pitch_rate", "roll", "roll_rate"),
        *("ball_x", "ball_y", "ball_z"),
        *("ball_qx", "ball_qy", "ball_qz", "ball_qw"),
        *("ball_vx", "ball_vy", "ball_vz"),
        *("ball_wx", "ball_wy", "ball_wz"),
    )
    reward_threshold: ClassVar[float | None] = 475.0
    has_equilibrium: ClassVar[bool] = True
    discrete_actions: ClassVar[tuple[tuple[float, ...], ...] | None] = (
        (-1.0, -1.0),
        (-1.0, 1.0),
        (1.0, -1.0),
        (1.0, 1.0),
    )
    # All stand in one place, since contacts round with coordinates, and a balanced plate is
    # unstable enough to make a rounding error centimetres in ten seconds.
    envs_per_world: ClassVar[int] = 8
    bullet_substeps: ClassVar[bool] = True
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(name="torque", unit="N·m", low=1e-5, high=0.05),
        Parameter(name="ball_mass", unit="kg", low=1e-4, high=0.1),
        Parameter(name="ball_radius", unit="m", low=0.005, high=0.05, visible=True, rebuilds=True),
        Parameter(name="plate_mass", unit="kg", low=0.03, high=3),
        Parameter(name="ring_mass", unit="kg", low=0.05, high=5),
        Parameter(name="sliding_friction", unit="", low=0, high=2),
        Parameter(name="rolling_friction", unit="m", low=0, high=0.01),
        Parameter(name="restitution", unit="", low=0, high=0.8),
    )
    perturbation_template: ClassVar[dict[str, Any]] = _PERTURBATIONS
    perturbation_presets: ClassVar[dict[str, dict[str, Any]]] = {
        name: scaled(_PERTURBATIONS, scale) for name, scale in _SCALES.items()
    }
    observation_scale: ClassVar[tuple[float, ...]] = (
        *(0.05, 0.05, 0.05),  # m
        *(0.1, 0.1, 0.1),  # m/s
        *(0.1, 0.1),  # rad
        *(0.3, 0.3),  # rad/s
    )
    keys: ClassVar[tuple[tuple[str, str], ...]] = (("up", "down"), ("left", "right"))  # of the ball
    video_camera: ClassVar[Camera] = Camera(
        eye=(0.28, -0.74, 0.7), target=(-0.02, 0.03, 0.04), fov=35.0, light=(-0.4, -0.5, 1.2)
    )
    floor_height: ClassVar[float] = -0.1675
    agent_camera: ClassVar[Camera] = Camera(
        eye=(0.077, 0.077, 0.9),
        target=(0.077, 0.077, 0.0),
        fov=29.0,
        shadow=False,
        up=(0.0, 1.0, 0.0),
    )

    def __post_init__(self) -> None:
        """Check the keywords."""
        super().__post_init__()
        # More slowly, a ball that is dropped tunnels into the plate and may fall through it.
        self._require("physics_hz", 50, MAX_PHYSICS_HZ, "Hz", whole=True)
        self._require("ball_limit", BALL_RADIUS, HALF_SIDE, "m")
        self._require("tilt_limit", 0.1, 1.5708, "rad")
        self._require("start_position", 0, 0.14, "m")
        self._require("start_speed", 0, 1, "m/s")
        self._require("start_tilt", 0, 0.3, "rad")
        self._require("drop_height", 0, 0.1, "m")
        if self.start_position > self.ball_limit or self.start_tilt > self.tilt_limit:
            raise ValueError(
                f"start_position={self.start_position!r} and start_tilt={self.start_tilt!r} must"
                f" not pass ball_limit={self.ball_limit!r} and tilt_limit={self.tilt_limit!r}"
            )

    @property
    def ball_height(self) -> float:
        """How far a resting ball's centre is above that of the plate (m)."""
        return HALF_THICKNESS + self.ball_radius

    @property
    def actuators(self) -> tuple[Actuator, ...]:
        """A torque about each axis."""
        return tuple(Actuator(joint=joint, scale=self.torque) for joint in ("pitch", "roll"))

    @property
    def observed_names(self) -> tuple[str, ...]:
        """The names of the columns that :meth:`observe` returns."""
        return (
            *("ball_x", "ball_y", "ball_z", "ball_vx", "ball_vy", "ball_vz"),
            *("pitch", "roll", "pitch_rate", "roll_rate"),
        )

    def observation_bounds(self) -> tuple[float, ...]:
        """Return the largest absolute value of each column of the observation."""
        farthest = math.hypot(self.ball_limit, self.ball_limit, self.ball_height + LIFT_LIMIT)
        position, angle = self._reach(farthest), self._reach(self.tilt_limit)
        bounds = [position] * 3 + [MAX_SPEED] * 3 + [angle] * 2 + [MAX_SPEED] * 2
        return tuple(
            bound / scale for bound, scale in zip(bounds, self.observation_scale, strict=True)
        )

    def rest(self) -> State:
        """Return the ball at rest in the middle of a level plate."""
        return self._ball_on_plate((0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0)

    def sample_initial_state(self, rng: np.random.Generator) -> State:
        """Return a ball that rolls on, or is dropped onto, a tilted plate."""
        ranges = 2 * [self.start_position] + 2 * [self.start_speed] + 2 * [self.start_tilt]
        u, v, u_dot, v_dot, pitch, roll = [
            2 * most * share - most
            for most, share in zip(ranges, rng.random(6).tolist(), strict=True)
        ]
        return self._ball_on_plate((u, v), (u_dot, v_dot), pitch, roll, self.drop_height)

    def _ball_on_plate(
        self,
        place: tuple[float, float],
        speed: tuple[float, float],
        pitch: float,
        roll: float,
        gap: float,
        pitch_rate: float = 0.0,
        roll_rate: float = 0.0,
    ) -> State:
        """Return the state of a ball that rolls on the plate, in the plate's own axes."""
        axes = _plate_axes(pitch, roll)
        position = (axes @ [*place, self.ball_height + gap]).tolist()
        vx, vy, vz = velocity = (axes @ [*speed, 0.0]).tolist()
        nx, ny, nz = axes[:, 2].tolist()
        spin = [
            component / self.ball_radius
            for component in (ny * vz - nz * vy, nz * vx - nx * vz, nx * vy - ny * vx)
        ]
        if pitch_rate or roll_rate:  # the ball also moves and turns with the plate
            rate = _plate_rate(pitch, pitch_rate, roll_rate)
            velocity = (velocity + np.cross(rate, position)).tolist()
            spin = (spin + rate).tolist()
        joints = (pitch, pitch_rate, roll, roll_rate)
        return (*joints, *position, 0.0, 0.0, 0.0, 1.0, *velocity, *spin)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Place and speed of a rolling ball in the plate's axes, joint angles and speeds."""
        return ("u", "u_dot", "v", "v_dot", "pitch", "pitch_rate", "roll", "roll_rate")

    @property
    def tolerances(self) -> tuple[float, ...]:
        """What a regulator weighs as 1: m and m/s, twice, then rad and rad/s, twice."""
        return 0.02, 0.2, 0.02, 0.2, 0.05, 0.4, 0.05, 0.4

    @property
    def command_tolerances(self) -> tuple[float, ...]:
        """What a regulator weighs as 1: a fifth of the greatest torque (N·m)."""
        return (self.torque / 5,) * 2

    def coordinates(self, state: State) -> Sequence[Any]:
        """Return the independent coordinates of a rolling ball on a plate."""
        pitch, pitch_rate, roll, roll_rate, x, y, z = state[:7]
        wx, wy, wz = _plate_rate(pitch, pitch_rate, roll_rate).tolist()
        # np.cross takes as long as a step of the environment.
        carried = np.array([wy * z - wz * y, wz * x - wx * z, wx * y - wy * x])
        u_dot, v_dot, _ = _plate_axes(pitch, roll).T @ (np.array(state[11:14]) - carried)
        u, v, _ = self._in_plate_axes(state)
        return u, u_dot, v, v_dot, pitch, pitch_rate, roll, roll_rate

    def from_coordinates(self, coordinates: Sequence[float]) -> State:
        """Return the state of a ball that rolls on the plate, the inverse of ``coordinates``."""
        u, u_dot, v, v_dot, pitch, pitch_rate, roll, roll_rate = coordinates
        return self._ball_on_plate((u, v), (u_dot, v_dot), pitch, roll, 0.0, pitch_rate, roll_rate)

    def check_initial_state(self, state: State) -> None:
        """Refuse also a ball inside the plate and a quaternion that is not of length 1.

        Raises:
            ValueError: as said.
        """
        super().check_initial_state(state)
        if abs(math.hypot(*state[7:11]) - 1) > 1e-6:
            raise ValueError(f"state ball_qx..ball_qw={state[7:11]!r} must have length 1")
        height = self._in_plate_axes(state)[2]
        if height < self.ball_height - PENETRATION:
            raise ValueError(
                f"state has the ball's centre {height:.4f} m above the plate's, in the plate's own"
                f" axes; a resting ball is at {self.ball_height} m"
            )

    def observe(self, state: State) -> Sequence[Any]:
        """Return the scaled ball position and velocity, joint angles and joint speeds."""
        pitch, pitch_rate, roll, roll_rate, x, y, z, _, _, _, _, vx, vy, vz, _, _, _ = state
        columns = (x, y, z, vx, vy, vz, pitch, roll, pitch_rate, roll_rate)
        return tuple(
            [column / scale for column, scale in zip(columns, self.observation_scale, strict=True)]
        )

    def terminated(self, state: State) -> Any:
        """Return whether the ball has left the plate or the plate is past its limit."""
        pitch, _, roll = state[:3]
        u, v, height = self._in_plate_axes(state)
        return (
            (abs(u) > self.ball_limit)
            | (abs(v) > self.ball_limit)
            | (height > self.ball_height + LIFT_LIMIT)
            | (height < 0)
            | (abs(pitch) > self.tilt_limit)
            | (abs(roll) > self.tilt_limit)
        )

    def failure(self, state: State) -> str:
        """Say which limit a state has passed."""
        if max(abs(state[0]), abs(state[2])) > self.tilt_limit:
            return f"plate beyond {self.tilt_limit:.3g} rad"
        return "ball off the plate"

    def _in_plate_axes(self, state: State) -> tuple[Any, Any, Any]:
        """Return the ball's position along the plate's sides and above its centre (m)."""
        pitch, _, roll, _, x, y, z = state[:7]
        xp = math if isinstance(pitch, float) else np
        cp, sp, cr, sr = xp.cos(pitch), xp.sin(pitch), xp.cos(roll), xp.sin(roll)
        ring_z = cp * z - sp * y
        return cr * x - sr * ring_z, cp * y + sp * z, sr * x + cr * ring_z

    def build(self, world: World, num_envs: int) -> BodyScene:
        """Load plates and balls."""
        scene = BodyScene(world, num_envs, self.actuators)
        scene.add_robot(assets.path("balancing_plate.urdf"), ("pitch", "roll"))
        share = self.ball_radius / BALL_RADIUS
        with stretched(assets.path("ball.urdf"), "ball", (share,) * 3) as urdf:
            scene.add_object(urdf, (0.0, 0.0, self.ball_height))
        return scene

    def rates(self, state: Any, effort: Any) -> Any:
        """Return d(state)/dt of a ball that rolls without slipping; None with other friction."""
        if self.rolling_friction or self.drop_height or self.sliding_friction < _ROLLS_FROM:
            return None
        return plate_rates(state, effort, self)

    def without_dry_friction(self) -> BalancingPlate:
        """Return the task without rolling friction, which stops a slow ball."""
        return replace(self, rolling_friction=0.0)

    def set_parameters(self, scene: BodyScene, index: int) -> None:
        """Give ball, plate and ring their masses, inertias and contact coefficients."""
        inertia = 2 / 3 * self.ball_mass * self.ball_radius**2
        ball, robot = scene.body(index, "ball"), scene.body(index, "plate")
        ball.set_mass("ball", self.ball_mass, (inertia,) * 3)
        # Those of a pair are products, of the ball's rolling friction with the plate's sliding one.
        ball.set_contact(
            "ball", self.sliding_friction, self.rolling_friction, 0.0, self.restitution
        )
        robot.set_contact("plate", 1.0, 0.0, 0.0, 1.0 if self.restitution else 0.0)
        for link, of_file, mass in (
            ("plate", _PLATE, self.plate_mass),
            ("ring", _RING, self.ring_mass),
        ):
            scaled = tuple(mass / of_file.mass * one for one in of_file.inertia)
            robot.set_mass(link, mass, scaled)


def _plate_axes(pitch: float, roll: float) -> Any:
    """Return the plate's own axes, a column each, in world axes."""
    cp, sp, cr, sr = math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    return np.array([[cr, 0, sr], [sp * sr, cp, -sp * cr], [-cp * sr, sp, cp * cr]])


def _plate_rate(pitch: float, pitch_rate: float, roll_rate: float) -> Any:
    """Return the plate's angular velocity in world axes (rad/s)."""
    return np.array([pitch_rate, roll_rate * math.cos(pitch), roll_rate * math.sin(pitch)])

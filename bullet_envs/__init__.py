"""PyBullet environments for Gymnasium, proved right and proved solvable.

Importing the package registers the ids in ``ENV_IDS`` and loads neither PyBullet nor torch. A task
of your own: subclass :class:`Task` and decorate it with :func:`register_task`
(``docs/custom_environment.md``).
"""

from typing import TYPE_CHECKING, Any

from . import tasks  # noqa: F401  (registers their ids)
from .camera import Camera
from .engine.urdf import read_joints, read_links
from .registration import env_ids, register_envs, register_task, registered
from .scene import Actuator, BodyScene, ContactFreeScene, Scene
from .snapshots import restore, snapshot
from .task import Parameter, Task

if TYPE_CHECKING:
    from .engine.world import World
    from .recorder import Recorder

    ENV_IDS: tuple[str, ...]

__version__ = "0.1.0"

__all__ = [
    "ENV_IDS",
    "Actuator",
    "BodyScene",
    "Camera",
    "ContactFreeScene",
    "Parameter",
    "Recorder",
    "Scene",
    "Task",
    "World",
    "read_joints",
    "read_links",
    "register_envs",
    "register_task",
    "registered",
    "restore",
    "snapshot",
]


def __getattr__(name: str) -> Any:
    if name == "ENV_IDS":  # of the tasks that are registered by now, a user's too
        return env_ids()
    if name == "Recorder":
        from .recorder import Recorder

        return Recorder
    if name == "World":
        from .engine.world import World

        return World
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""One declaration makes a task's ids, single and vector, with states or images to observe."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import gymnasium as gym

from .task import Task

Kind = TypeVar("Kind", bound=type[Task])


@dataclass(frozen=True)
class RegisteredTask:
    """The ids of a task.

    Args:
        name: as given to :func:`register_task`.
        task: where its class is, ``"module:Class"``.
        state_id: observes the columns that the task chose.
        pixel_id: observes an image.
    """

    name: str
    task: str
    state_id: str
    pixel_id: str


# Keywords of environments and of the observer of images, which a task's would hide.
RESERVED = (
    *("task", "observer", "render_mode", "num_envs", "max_episode_steps", "autoreset_mode"),
    *("workers", "start_method", "perturbations"),
    *("size", "camera", "supersampling", "renderer"),
)
_REGISTERED: dict[str, RegisteredTask] = {}


def register_task(name: str, version: int = 0) -> Callable[[Kind], Kind]:
    """Register a task's ids with Gymnasium: ``<name>-v<version>`` and ``<name>Pixels-v<version>``.

    A class decorator. Both ids have a single and a vector entry point. Where the decorated class is
    in a package, ``gym.make("package:<id>")`` imports it, also in spawned worker processes.
    Registering the same class again, as a reloaded module does, takes its present settings.

    Args:
        name: of the ids; may begin with a namespace, ``"my_robots/Arm"``.
        version: to be raised by whatever changes dynamics, reward, spaces or pixels.

    Raises:
        TypeError: what is decorated is not a subclass of :class:`Task`, or a keyword of it has no
            default.
        ValueError: a keyword of the task is one of environments, an id belongs to another
            environment, or the class cannot be imported by name.
        gymnasium.error.Error: the name is not legal.
    """
    if not isinstance(name, str):
        raise TypeError("register_task takes a name: write @register_task('MyTask')")
    if re.search(r"-v\d+$", name):
        raise ValueError(f"register_task({name!r}) adds the version itself: leave out '-v…'")

    def register(kind: Kind) -> Kind:
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise TypeError(f"register_task({name!r}) decorates a subclass of Task, not {kind!r}")
        if "." in kind.__qualname__:
            raise ValueError(f"{kind.__qualname__} must stand at the top level of its module")
        _check_fields(kind)
        found = RegisteredTask(
            name,
            f"{kind.__module__}:{kind.__name__}",
            f"{name}-v{version}",
            f"{name}Pixels-v{version}",
        )
        ids = (found.state_id, found.pixel_id)
        for env_id in ids:
            known = _REGISTERED.get(env_id)
            if env_id in gym.registry and (known is None or known.task != found.task):
                raise ValueError(f"the id {env_id} is registered for another environment")
        for env_id in ids:
            gym.registry.pop(env_id, None)
            _register(env_id, found, kind)  # refuses a name that is not legal
            _REGISTERED[env_id] = found
        return kind

    return register


def _check_fields(kind: type[Task]) -> None:
    """Refuse keywords of a task that an environment could not pass on."""
    own = inspect.get_annotations(kind)
    fields = [name for name, of in own.items() if "ClassVar" not in str(of)]
    if fields and "__dataclass_fields__" not in kind.__dict__:
        raise TypeError(
            f"{kind.__name__} has the field {fields[0]!r}: decorate it with"
            " @dataclass(frozen=True, kw_only=True), below @register_task"
        )
    for field in dataclasses.fields(kind):
        if field.name in RESERVED:
            raise ValueError(f"{kind.__name__}.{field.name}: environments have such a keyword")
        if field.default is field.default_factory is dataclasses.MISSING:
            raise TypeError(f"{kind.__name__}.{field.name} must have a default")


def _register(env_id: str, task: RegisteredTask, kind: type[Task]) -> None:
    gym.register(
        env_id,
        "bullet_envs.env:BulletEnv",
        vector_entry_point="bullet_envs.vector:BulletVectorEnv",
        max_episode_steps=kind.max_episode_steps,
        reward_threshold=kind.reward_threshold,
        order_enforce=False,  # the environments themselves raise ResetNeeded
        kwargs={"task": task.task, "observer": "state" if env_id == task.state_id else "pixels"},
    )


def register_envs() -> None:
    """Register every task's ids that Gymnasium does not have. Calling it again changes nothing."""
    for env_id, task in _REGISTERED.items():
        if env_id not in gym.registry:
            _register(env_id, task, load_task(task.task))


def registered(env_id: str) -> RegisteredTask | None:
    """Return the task of an id, which may begin with ``module:``, or None if there is none."""
    return _REGISTERED.get(env_id.rpartition(":")[2])


def env_ids() -> tuple[str, ...]:
    """Return the ids of all tasks: those that observe states, then those that observe images."""
    tasks = dict.fromkeys(_REGISTERED.values())
    return (*(task.state_id for task in tasks), *(task.pixel_id for task in tasks))


def load_task(path: str) -> type[Task]:
    """Return the class at ``"module:Class"``.

    Raises:
        ValueError: there is no such task.
    """
    module, _, name = path.partition(":")
    try:
        __import__(module)
        kind = getattr(sys.modules[module], name)
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"task={path!r} must be 'module:Class': {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ValueError(f"task={path!r} is not a subclass of bullet_envs.Task")
    return kind

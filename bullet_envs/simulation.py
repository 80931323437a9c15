"""The physics of n sub-environments: no reset protocol, no random numbers, no reward."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .checks import shorten
from .contract import check_scene
from .engine.world import World

if TYPE_CHECKING:
    from .perturbed_episode import Force
    from .scene import Scene
    from .task import Task


class Simulation:
    """The worlds and scenes of one or more sub-environments of a task.

    States and commands go in and come out as flat sequences of floats, sub-environment after
    sub-environment. Sub-environments that share a world never touch, and each moves as it would
    alone, to the bit, if the task's robots allow for it (see ``Task.envs_per_world``).

    Args:
        task: the problem.
        num_envs: sub-environments; ``task.envs_per_world`` of them share a world.
        perturbed: the names of parameters that :meth:`set_task` will change.
        **options: of :class:`~bullet_envs.engine.world.World`: ``egl_renderer``,
            ``visible``.

    Raises:
        RuntimeError: a window, EGL or one more client cannot be had.
    """

    def __init__(
        self, task: Task, num_envs: int = 1, perturbed: Collection[str] = (), **options: bool
    ) -> None:
        self._actuators = len(task.actuators)
        self._columns = len(task.state_names)
        self._options = options
        self._perturbed = perturbed
        self._rebuilding = [
            one.name for one in task.parameters if one.rebuilds and one.name in perturbed
        ]
        self._worlds: list[tuple[World, Scene, range]] = []
        self._tasks: list[Task] = []  # of each world
        count = num_envs if self._rebuilding else -(-num_envs // task.envs_per_world)
        for number in range(count):
            first, after = (num_envs * n // count for n in (number, number + 1))
            self._worlds.append((*self._build(task, after - first), range(first, after)))
            self._tasks.append(task)
        self._look_up()

    def _build(self, task: Task, num_envs: int) -> tuple[World, Scene]:
        loaded = task.world_task(self._perturbed) if self._perturbed else task
        world = World(
            loaded.physics_hz,
            loaded.control_hz,
            loaded.gravity,
            loaded.bullet_substeps,
            **self._options,
        )
        scene = loaded.build(world, num_envs)
        check_scene(loaded, scene, num_envs)
        if self._perturbed or not task.has_defaults:
            for index in range(num_envs):
                task.set_parameters(scene, index)
        return world, scene

    def _look_up(self) -> None:
        self.world, scene, _ = self._worlds[0]
        # What a lone sub-environment needs, looked up once: its step has 7 µs in all.
        self._lone = (scene.act, self.world.step, self.world.steps - 1, scene.state)

    def set_task(self, index: int, task: Task) -> None:
        """Give a sub-environment the parameters of a task, before it is placed in a state."""
        for number, (_, _, indices) in enumerate(self._worlds):
            if index in indices:
                self._set_task(number, index, task)

    def _set_task(self, number: int, index: int, task: Task) -> None:
        """Give parameters to a sub-environment of a world."""
        world, scene, indices = self._worlds[number]
        of_world = self._tasks[number]
        if any(getattr(of_world, name) != getattr(task, name) for name in self._rebuilding):
            world.close()
            self._worlds[number] = (*self._build(task, 1), indices)
            self._tasks[number] = task
            self._look_up()
        else:
            task.set_parameters(scene, index - indices.start)

    def push(self, index: int, link: str, force: Sequence[float]) -> None:
        """Push a body of a sub-environment in the next step of its world (N, world axes).

        Raises:
            ValueError: it has no such link.
        """
        for _, scene, indices in self._worlds:
            if index in indices:
                scene.push(index - indices.start, link, force)

    def set_state(self, states: Mapping[int, Sequence[Any]]) -> dict[int, list[float]]:
        """Place some sub-environments, so that what follows depends on their states alone.

        Args:
            states: by index, a sequence of ``len(task.state_names)`` floats each.

        Returns:
            The same states as the engine gives them back, which may differ in the last bits of a
            quaternion.

        Raises:
            ValueError: a state is none that bodies can have, such as a quaternion of length 0.
        """
        self.world.set_shared_parameters()
        placed = {}
        for _, scene, indices in self._worlds:
            if here := _set_state(scene, indices, states):
                columns = scene.state()
                for index in here:
                    first = index * self._columns
                    mine = columns[first : first + self._columns]
                    if not all(map(math.isfinite, mine)):
                        raise ValueError(f"state {shorten(states[indices.start + index])} is none")
                    placed[indices.start + index] = mine
        return placed

    def step(
        self,
        commands: Sequence[float],
        then_set: Mapping[int, Sequence[Any]] | None = None,
        idle: Collection[int] = (),
        forces: Mapping[int, Sequence[Force]] | None = None,
        tasks: Mapping[int, Task] | None = None,
    ) -> list[float]:
        """Advance by one control period and return the columns of all states.

        Args:
            commands: of each actuator of each sub-environment (SI units).
            then_set: states to place some sub-environments at after the period, by index.
            idle: sub-environments whose state does not matter. A world that has no others is not
                stepped, and its columns are 0.
            forces: what pushes bodies of sub-environments during the period, by index.
            tasks: whose parameters sub-environments of ``then_set`` are given before, by index.
        """
        if then_set:
            self.world.set_shared_parameters()
        width = self._actuators
        columns: list[float] = []
        for number, (world, scene, indices) in enumerate(self._worlds):
            if idle and all(index in idle for index in indices):
                columns += [0.0] * (len(indices) * self._columns)
                continue
            mine = commands[indices.start * width : indices.stop * width]
            for _ in range(world.steps):
                scene.act(mine)
                if forces:
                    _push(scene, indices, forces)
                world.step()
            if tasks:
                for index, task in tasks.items():
                    if index in indices:
                        self._set_task(number, index, task)
                _, scene, _ = self._worlds[number]
            if then_set:
                # Here, while the world is in the processor's cache, this takes half the time.
                _set_state(scene, indices, then_set)
            columns += scene.state()
        return columns

    def step_one(self, command: Sequence[float]) -> list[float]:
        """Advance the only sub-environment by one control period and return its columns.

        The same as :meth:`step`, without what that needs for many.

        Args:
            command: of each actuator (SI units).
        """
        act, advance, further, state = self._lone
        act(command)
        advance()
        if further:
            for _ in range(further):
                act(command)
                advance()
        return state()

    def close(self) -> None:
        """Free the engine. Safe to call twice."""
        for world, _, _ in self._worlds:
            world.close()


def _push(scene: Scene, indices: range, forces: Mapping[int, Sequence[Force]]) -> None:
    for index in indices:
        for link, force in forces.get(index, ()):
            scene.push(index - indices.start, link, force)


def _set_state(
    scene: Scene, indices: range, states: Mapping[int, Sequence[Any]]
) -> Mapping[int, Sequence[Any]]:
    """Place those sub-environments that a scene has, and return their states."""
    here = {index - indices.start: states[index] for index in states if index in indices}
    if here:
        scene.set_state(here)
    return here

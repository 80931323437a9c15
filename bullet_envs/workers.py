"""Processes that share the sub-environments of a vector environment.

The process that steps the vector environment does the first part itself, and has a worker process
for each other part. What goes in and comes out of each step lies in memory that all processes
share, see :class:`~bullet_envs.sub_environments.Results`, and is written in place. A semaphore for
each worker tells it to go on, another that it is done. All else (seeds, given states, errors,
copies) goes through a pipe.
"""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from .checks import require, shorten
from .cores import count_cores
from .sub_environments import Array, Results, SubEnvironments
from .task import State

SPIN = 300e-6  # seconds of waiting before a process blocks, where there are cores for all
LOOK = 0.25  # seconds between two looks whether the process that is waited for is alive
PATIENCE = 2.0  # seconds until a worker that does not end by itself is killed
ALIGNMENT = 64  # bytes of a line of the processor's cache
# What the workers are to do.
STEP, STEP_UNOBSERVED, CALL, FETCH, END = range(5)
# What a worker has done.
DONE, REPLIED = range(2)
_let_others_run = getattr(os, "sched_yield", lambda: time.sleep(0))  # the second is for Windows


class Workers:
    """Sub-environments in several processes: used as :class:`SubEnvironments`, which each has.

    The worker processes begin with the first call, and end with :meth:`close` or with this process,
    however it ends.

    Args:
        parts: of the sub-environments, in order, the first for this process, one for each other.
        start_method: of the processes, None for Python's default.

    Attributes:
        results: of all sub-environments, in shared memory.
    """

    def __init__(self, parts: Sequence[SubEnvironments], start_method: str | None) -> None:
        self._start_method = start_method
        self._processes: _Processes | None = None
        self._share(parts)

    @property
    def generators(self) -> list[tuple[np.random.Generator, int]]:
        """A copy of the pair of generator and seed of each sub-environment."""
        return copy.deepcopy([pair for part in self._fetch() for pair in part.generators])

    def reset(
        self,
        indices: Sequence[int],
        seeds: Mapping[int, int],
        state: State | None,
        parameters: Mapping[str, float],
    ) -> None:
        """As :meth:`SubEnvironments.reset`."""
        messages = []
        for rows in self._rows:
            mine = [index - rows.start for index in indices if rows.start <= index < rows.stop]
            of_mine = {i: seeds[rows.start + i] for i in mine if rows.start + i in seeds}
            messages.append(("reset", (mine, of_mine, state, parameters)))
        self._run(CALL, messages)

    def step(self, skip_observations: bool) -> None:
        """As :meth:`SubEnvironments.step`."""
        self._run(STEP_UNOBSERVED if skip_observations else STEP)

    def observe(self) -> None:
        """As :meth:`SubEnvironments.observe`."""
        self._call("observe")

    def resynchronize(self) -> None:
        """As :meth:`SubEnvironments.resynchronize`."""
        self._call("resynchronize")

    def snapshot(self) -> list[dict[str, Any]]:
        """As :meth:`SubEnvironments.snapshot`."""
        return [one for part in self._fetch() for one in part.snapshot()]

    def restore(self, taken: Sequence[Mapping[str, Any]]) -> None:
        """As :meth:`SubEnvironments.restore`."""
        self._run(CALL, [("restore", (taken[rows],)) for rows in self._rows])

    def discard_engine(self) -> None:
        """As :meth:`SubEnvironments.discard_engine`."""
        self._call("discard_engine")

    def close(self) -> None:
        """End the processes. A reset of all begins new ones, with the generators of these."""
        if self._processes is None:
            return
        try:
            parts = self._fetch()
        except RuntimeError:  # they have ended already
            return
        self._processes.end()
        self._processes = None
        parts[0].close()
        self._share(parts)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has. Its processes are its own, and begin with its first call."""
        return {"parts": self._fetch(), "start_method": self._start_method}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy."""
        Workers.__init__(self, **state)

    def _share(self, parts: Sequence[SubEnvironments]) -> None:
        """Take parts, and move their results into shared memory."""
        self._parts = parts
        stops = itertools.accumulate(part.count for part in parts)
        self._rows = [slice(*ends) for ends in itertools.pairwise([0, *stops])]
        counted = _Memory(sum(part.count for part in parts))
        counted.results(parts[0])
        context = multiprocessing.get_context(self._start_method)
        self._memory = _Memory(counted.num_envs, context.RawArray("b", counted.size))
        self.results = self._memory.results(parts[0])
        for part, rows in zip(parts, self._rows, strict=True):
            shared = self.results.part(rows)
            for array, own in zip(shared.arrays(), part.results.arrays(), strict=True):
                array[...] = own
            part.results = shared

    def _call(self, name: str) -> None:
        """Call a method of each part."""
        if self._processes is not None:
            self._run(CALL, [(name, ())] * len(self._parts))
            return
        for part in self._parts:
            getattr(part, name)()

    def _fetch(self) -> Sequence[SubEnvironments]:
        """Return the parts as they are now, which the processes have while they run."""
        return self._parts if self._processes is None else self._run(FETCH)

    def _run(self, command: int, messages: Sequence[Any] = ()) -> list[Any]:
        """Let each part do something and return what each replies.

        Raises:
            RuntimeError: a worker has died.
            BaseException: what a part raised, or Ctrl-C.
        """
        if self._processes is None:
            self._processes = _Processes(
                self._parts[1:], self._rows[1:], self._memory, self._start_method
            )
        try:
            self._processes.begin(command, messages[1:])
            own = _reply(self._parts[0], command, lambda: messages[0])
            replies = [own, *self._processes.finish()]
        except BaseException:  # they are somewhere in a step
            self._processes.end(patience=0.0)
            self._processes = None
            self._call("abandon")
            raise
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies


class _Memory:
    """Takes arrays from a block of shared memory, or counts how large it must be.

    Args:
        num_envs: length of all arrays.
        block: the memory; None to count.
    """

    def __init__(self, num_envs: int, block: Any = None) -> None:
        self.num_envs = num_envs
        self.size = 0
        self._block = block

    def results(self, part: SubEnvironments) -> Results:
        """Return results for the task of a part; the same block gives the same arrays."""
        self.size = 0
        return Results.make(part.task, part.observer.space, part.perturbations, self._allocate)

    def _allocate(self, shape: tuple[int, ...], dtype: Any) -> Array:
        dtype = np.dtype(dtype)
        shape = (self.num_envs, *shape)
        begin = self.size
        self.size += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        if self._block is None:
            return np.empty((0, *shape[1:]), dtype)
        return np.frombuffer(self._block, dtype, math.prod(shape), begin).reshape(shape)


@dataclass
class _Worker:
    """What the parent has of a worker."""

    process: Any
    pipe: Connection
    go: Any
    done: Any
    rows: slice


class _Processes:
    """The worker processes of :class:`Workers`.

    Args:
        parts: what each is to have.
        rows: of the results that are theirs.
        memory: with the results of all.
        start_method: of the processes.
    """

    def __init__(
        self,
        parts: Sequence[SubEnvironments],
        rows: Sequence[slice],
        memory: _Memory,
        start_method: str | None,
    ) -> None:
        context: Any = multiprocessing.get_context(start_method)
        # What all are to do, and then what each has done.
        self._words = context.RawArray("B", 1 + len(parts))
        self._spin = SPIN if count_cores() > len(parts) else 0.0
        self._owner = os.getpid()
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _end, self._owner, self._workers, self._words)
        try:
            for index, (part, own) in enumerate(zip(parts, rows, strict=True)):
                pipe, theirs = context.Pipe()
                go, done = context.Semaphore(0), context.Semaphore(0)
                process = context.Process(
                    target=_work,
                    args=(part, own, memory, index, self._words, theirs, go, done, self._spin),
                    name=f"bullet_envs-worker-{index}",
                    daemon=True,
                )
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, pipe, go, done, own))
        except BaseException:
            self.end()
            raise

    def begin(self, command: int, messages: Sequence[Any]) -> None:
        """Let all do something.

        Raises:
            RuntimeError: one has died.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("the workers of a vector environment belong to the process it is of")
        if not self._workers:
            raise RuntimeError("the workers have ended with the interpreter")
        self._words[0] = command
        for worker in self._workers:
            worker.go.release()
        try:
            for worker, message in zip(self._workers, messages, strict=False):
                worker.pipe.send(message)
        except ConnectionError:
            raise RuntimeError(self._obituary()) from None

    def finish(self) -> list[Any]:
        """Wait for all, and return what each replies: a value, None or an exception.

        Raises:
            RuntimeError: one has died.
        """
        return [self._finish(index) for index in range(len(self._workers))]

    def _finish(self, index: int) -> Any:
        worker = self._workers[index]
        if not _acquire(worker.done, self._spin, self._are_alive):
            raise RuntimeError(self._obituary())
        try:
            return None if self._words[1 + index] == DONE else worker.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(self._obituary()) from None

    def _are_alive(self) -> bool:
        return all(worker.process.is_alive() for worker in self._workers)

    def _obituary(self) -> str:
        wait([worker.process.sentinel for worker in self._workers], PATIENCE)
        worker = next(
            (one for one in self._workers if not one.process.is_alive()), self._workers[0]
        )
        code = worker.process.exitcode
        cause = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return (
            f"the worker with the sub-environments {worker.rows.start} to {worker.rows.stop - 1}"
            f" has died ({cause}): reset() begins anew"
        )

    def end(self, patience: float = PATIENCE) -> None:
        """End the processes, and kill those that have not ended after so many seconds."""
        self._finalizer.detach()
        _end(self._owner, self._workers, self._words, patience)


def _end(owner: int, workers: list[_Worker], words: Any, patience: float = PATIENCE) -> None:
    if os.getpid() != owner:  # a fork of this process, which has no workers
        return
    words[0] = END
    for worker in workers:
        worker.go.release()
    deadline = time.monotonic() + patience
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.process.close()
        worker.pipe.close()
    workers.clear()


def _acquire(semaphore: Any, spin: float, is_alive: Callable[[], bool]) -> bool:
    """Wait for a semaphore, and return False once nobody is alive who would release it."""
    deadline = time.perf_counter() + spin
    while not semaphore.acquire(False):
        if time.perf_counter() >= deadline:
            break
        _let_others_run()
    else:
        return True
    while not semaphore.acquire(True, LOOK):
        if not is_alive():
            return bool(semaphore.acquire(False))  # it may have been released just before the end
    return True


def _work(
    part: SubEnvironments,
    rows: slice,
    memory: _Memory,
    index: int,
    words: Any,
    pipe: Connection,
    go: Any,
    done: Any,
    spin: float,
) -> None:
    """Do what the parent wants until it wants the end, or has ended itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    part.results = memory.results(part).part(rows)
    parent, id_of_parent = multiprocessing.parent_process(), os.getppid()

    def is_alive() -> bool:
        # The first tells it where a server forks, the second where another worker keeps a pipe open
        # that was copied into it.
        return parent.is_alive() and os.getppid() == id_of_parent  # type: ignore[union-attr]

    while _acquire(go, spin, is_alive) and words[0] != END:
        reply = _reply(part, words[0], pipe.recv)
        if isinstance(reply, Exception):
            reply = ExceptionWithTraceback(reply, reply.__traceback__)
        words[1 + index] = DONE if reply is None else REPLIED
        done.release()
        if reply is not None:
            pipe.send(reply)


def _reply(part: SubEnvironments, command: int, message: Callable[[], Any]) -> Any:
    """Let a part do something, and return it, None, or the exception that it raised."""
    try:
        if command == FETCH:
            return part
        if command == CALL:
            name, arguments = message()
            getattr(part, name)(*arguments)
        else:
            part.step(command == STEP_UNOBSERVED)
    except Exception as error:
        return error
    return None


def count_workers(workers: Any, num_envs: int) -> int:
    """Return how many processes a keyword asks for.

    Raises:
        TypeError: it is neither a whole number nor ``"auto"``.
        ValueError: it is out of its range.
    """
    if workers == "auto":
        return min(num_envs, count_cores(physical=True))
    if isinstance(workers, str):
        raise ValueError(f"workers={shorten(workers)} must be a whole number or 'auto'")
    require("workers", workers, 1, num_envs, "processes, as many as sub-environments", whole=True)
    return int(workers)


def check_start_method(start_method: Any) -> str | None:
    """Return the start method of processes that a keyword asks for.

    Raises:
        ValueError: this system has none of that name.
    """
    legal = multiprocessing.get_all_start_methods()
    if start_method is not None and start_method not in legal:
        raise ValueError(
            f"start_method={shorten(start_method)} must be None or one of {', '.join(legal)}"
        )
    return start_method  # type: ignore[no-any-return]

"""Tensors on disk: written whole or not at all, checked when read, and never pickled."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or belongs to something else."""


@dataclass(frozen=True)
class LearnerState:
    """All that a training needs to go on exactly as it would have.

    Args:
        tensors: by name.
        values: by name, what JSON can hold.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def refusing(what: object) -> Iterator[None]:
    """Turn whatever content of the wrong form causes into a :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError, MemoryError),
        *(RecursionError, RuntimeError, TypeError, ValueError),
    ) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"{what} is not what this training wrote: {reason}") from None


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: there is no such file, or it is a pipe, a device or the like, which could keep the
            reader waiting for ever.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # neither is everywhere
    descriptor = os.open(path, os.O_RDONLY | flags)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a power cut, finds the old or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def digest(tensors: Mapping[str, Tensor], info: str = "") -> str:
    """Return the SHA-256 of a text and of tensors, their names, shapes and types included."""
    return hashlib.sha256(save(dict(tensors), {"info": info})).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> str:
    """Write tensors and some JSON into one file and return the SHA-256 of both."""
    text = json.dumps(info)
    sha256 = digest(tensors, text)
    write_atomically(path, save(dict(tensors), {"info": text, "sha256": sha256}))
    return sha256


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return what :func:`write_tensors` wrote: tensors, JSON and SHA-256.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, sha256 = metadata["info"], metadata["sha256"]
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of bullet-envs: {error}") from None
    if digest(tensors, text) != sha256:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256")
    with refusing(path):
        info = json.loads(text)
        if not isinstance(info, dict):
            raise ValueError("its JSON is no object")
    return tensors, info, sha256


def learner_tensors(
    modules: Mapping[str, nn.Module], *optimisers: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Return the parameters of modules and the moments of their optimisers under flat names."""
    tensors = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for number, optimiser in enumerate(optimisers):
        for index, moments in optimiser.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimiser{number or ''}.{index}.{key}"] = value
    # Copies, because a state_dict shares memory with what is being trained.
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def restore_learner(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    *optimisers: torch.optim.Optimizer,
) -> None:
    """Undo :func:`learner_tensors`.

    Raises:
        CheckpointError: the tensors are not those of such modules and their optimisers.
    """
    for name, module in modules.items():
        load_module(module, below(tensors, name))
    for number, optimiser in enumerate(optimisers):
        _restore_moments(below(tensors, f"optimiser{number or ''}"), optimiser)


# What an optimiser keeps for each parameter.
_MOMENTS: dict[type[torch.optim.Optimizer], set[str]] = {
    torch.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.RMSprop: {"step", "square_avg"},  # without momentum
}


def _restore_moments(tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    expected = _MOMENTS[type(optimiser)]
    moments: dict[int, dict[str, Tensor]] = {}
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters) or key not in expected:
            raise CheckpointError(f"the optimiser has no {name!r}")
        shape = () if key == "step" else parameters[int(index)].shape
        if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise CheckpointError(f"the optimiser's {name} does not fit the network")
        moments.setdefault(int(index), {})[key] = tensor
    if any(of.keys() != expected for of in moments.values()):
        raise CheckpointError("the optimiser's moments are not complete")
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


def matching(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of a checkpoint after checking it.

    Args:
        tensor: to be checked.
        shape: that it must have; -1 fits any length.
        dtype: that it must have.

    Raises:
        CheckpointError: it has another shape or type, or is not finite.
    """
    fits = len(tensor.shape) == len(shape) and all(
        expected in (-1, actual) for expected, actual in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise CheckpointError(
            f"a tensor of the checkpoint is {tensor.dtype} {tuple(tensor.shape)},"
            f" not {dtype} {shape}"
        )
    if not tensor.isfinite().all():
        raise CheckpointError("a tensor of the checkpoint is not finite")
    return tensor


def whole_number(tensor: Tensor, greatest: int = 2**62) -> int:
    """Return a counter of a checkpoint after checking it.

    Raises:
        CheckpointError: it is not a number from 0 to ``greatest``.
    """
    value = int(matching(tensor, (), torch.int64))
    if not 0 <= value <= greatest:
        raise CheckpointError(f"a counter of the checkpoint is {value}")
    return value


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}


def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module after checking that they are its own.

    Raises:
        CheckpointError: names, shapes or types differ, or a number is not finite.
    """
    expected = module.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise CheckpointError(f"weights do not fit the network: {', '.join(odd)}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise CheckpointError(
                f"weights {name} are {tensor.dtype} {tuple(tensor.shape)},"
                f" the network has {wanted.dtype} {tuple(wanted.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"weights {name} are not finite")
    module.load_state_dict(dict(tensors))

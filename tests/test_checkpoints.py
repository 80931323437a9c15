"""What is on disk is whole, is what was written, and cannot run anything."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import random
import signal
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUNDLED, PIXEL_IDS, STATE_IDS, TRAINED_HERE
from safetensors.torch import save
from torch import nn

from bullet_envs.agents import ALGOS, algorithm, load_agent, new_agent, pretrained_card
from bullet_envs.agents.checkpoints import (
    CheckpointError,
    LearnerState,
    digest,
    learner_tensors,
    load_module,
    read_tensors,
    restore_learner,
    write_tensors,
)
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents.reinforce import ReinforceConfig, ReinforcePolicy
from bullet_envs.agents.run import Run


@pytest.fixture(params=STATE_IDS + PIXEL_IDS)
def env_id(request):
    """An id of the suite: those of the tests' own robots have no agents."""
    return request.param


ENV_ID = "BulletCartPole-v0"
FLIPS = 1000


def untrained(seed=0, hidden=(8,), algo="reinforce", env_id=ENV_ID, **env_kwargs):
    torch.manual_seed(seed)
    return new_agent(algorithm(algo).policy, EnvConfig(env_id, env_kwargs), hidden)


@pytest.fixture
def saved(tmp_path):
    """Return the card of an untrained agent, saved."""
    agent = untrained()
    settings = {"env_kwargs": {}, "action_repeat": 1, "gamma": 0.99}
    agent.facts = {"seed": 0, "steps": 100, "selection_return": 9.5, "settings": settings}
    agent.save(tmp_path / "best.json")
    return tmp_path / "best.json"


def weights_of(card):
    return card.with_name(json.loads(card.read_text())["weights"])


def rewrite(card, **changes):
    """Change entries of a card; None removes one."""
    content = {**json.loads(card.read_text()), **changes}
    removed = [name for name, value in changes.items() if value is None]
    card.write_text(json.dumps({k: v for k, v in content.items() if k not in removed}))


def give_weights(card, content):
    """Put other weights under a card, with the hash that it promises."""
    weights_of(card).write_bytes(content)
    rewrite(card, sha256=hashlib.sha256(content).hexdigest())


def parameters(agent):
    return {name: tensor.clone() for name, tensor in agent.policy.network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def some_bits(content):
    return random.Random(0).sample(range(8 * len(content)), FLIPS)


@pytest.fixture
def checkpoint(tmp_path):
    """Return a checkpoint of a network and its optimiser in mid-training."""
    network, optimiser = learner()
    train(network, optimiser, range(3))
    path = tmp_path / "checkpoint.safetensors"
    info = {"settings": {"gamma": 0.99}, "steps": 1234, "best_return": 56.5, "seconds": 7.25}
    write_tensors(path, learner_tensors({"policy": network}, optimiser), info)
    return path


def learner(seed=0, kind=torch.optim.Adam):
    torch.manual_seed(seed)
    network = nn.Linear(4, 3)
    return network, kind(network.parameters(), 0.1)


def train(network, optimiser, steps):
    for step in steps:
        optimiser.zero_grad()
        network(torch.full((1, 4), float(step))).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("frame_stack, action_repeat", [(1, 1), (3, 2)])
def test_saved_agent_is_loaded_as_it_was(tmp_path, algo, env_id, frame_stack, action_repeat):
    """Weights, identity and facts survive, and the loaded agent takes the same actions."""
    env_kwargs = {"control_hz": 25, **({"size": 36} if env_id in PIXEL_IDS else {})}
    env_kwargs["continuous"] = algo == "sb3-sac"
    torch.manual_seed(3)
    env = EnvConfig(env_id, env_kwargs, frame_stack, action_repeat)
    agent = new_agent(algorithm(algo).policy, env, (8, 5))
    agent.facts = {"seed": 7, "steps": 123, "settings": {"gamma": 0.9}}
    agent.save(tmp_path / "card.json")
    loaded = load_agent(env_id, tmp_path / "card.json")

    assert type(loaded.policy) is type(agent.policy)
    assert equal(parameters(loaded), parameters(agent))
    assert loaded.weights_hash == agent.weights_hash
    assert loaded.facts == agent.facts
    assert (loaded.algo, loaded.env, loaded.policy.hidden) == (algo, env, (8, 5))
    assert loaded.observation_space == agent.observation_space
    rng = np.random.default_rng(0)
    size = (50, *agent.observation_space.shape)
    if env_id in PIXEL_IDS:
        observations = rng.integers(0, 256, size, np.uint8)
    else:
        observations = rng.normal(size=size).astype(np.float32)
    expected, _ = agent.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    # Its environment is the one that it was trained in, stack and repeat included.
    with agent.make_env() as env, loaded.make_env() as same:
        for one, other in ((env, same), (env.env, same.env)):
            assert type(one) is type(other)
        np.testing.assert_array_equal(env.reset(seed=0)[0], same.reset(seed=0)[0])
        action = env.action_space.sample()
        np.testing.assert_array_equal(env.step(action)[0], same.step(action)[0])


@pytest.mark.parametrize("env_id", [*STATE_IDS, *PIXEL_IDS])
def test_a_card_says_what_its_agent_sees(tmp_path, env_id):
    """Stack, repeat and renderer are on the card, and None for one who sees no images."""
    drawn = [("tiny", {}), ("egl", {"renderer": "egl"})] if env_id in PIXEL_IDS else [(None, {})]
    for renderer, env_kwargs in drawn:
        agent = new_agent(algorithm("dqn").policy, EnvConfig(env_id, env_kwargs, 2, 4), (8,))
        agent.save(tmp_path / "card.json")
        card = json.loads((tmp_path / "card.json").read_text())
        assert (card["renderer"], card["frame_stack"], card["action_repeat"]) == (renderer, 2, 4)
        assert card["env_kwargs"] == env_kwargs
        assert load_agent(env_id, tmp_path / "card.json").renderer == agent.renderer == renderer


def test_hash_is_of_the_file(saved):
    """The card's SHA-256 is that of the weights file, as `sha256sum` prints it."""
    agent = load_agent(ENV_ID, saved)
    assert agent.weights_hash == hashlib.sha256(weights_of(saved).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["v1.0", "my best agent", "a.b-c_d", "größe", "x" * 90, "-"])
def test_a_saved_agent_can_be_loaded(tmp_path, name):
    """Whatever name save() takes, load_agent() takes too."""
    agent = untrained()
    path = tmp_path / f"{name}.json"
    try:
        agent.save(path)
    except ValueError as error:
        assert "name" in str(error)
        assert not list(tmp_path.iterdir())
    else:
        assert load_agent(ENV_ID, path).weights_hash == agent.weights_hash


def test_saving_again_leaves_two_files(saved):
    """An agent saved over another removes its weights and touches nothing else."""
    neighbour = saved.with_name("better-12345678.safetensors")
    neighbour.write_bytes(b"not mine")
    untrained(1).save(saved)
    names = {path.name for path in saved.parent.iterdir()}
    assert names == {"best.json", weights_of(saved).name, neighbour.name}


def test_restored_learner_goes_on_as_the_original(checkpoint):
    """Network and Adam restored from a file take the same further steps, to the bit."""
    network, optimiser = learner()
    train(network, optimiser, range(6))

    restored, its_optimiser = learner(seed=1)
    tensors, info, _ = read_tensors(checkpoint)
    restore_learner(tensors, {"policy": restored}, its_optimiser)
    train(restored, its_optimiser, range(3, 6))
    assert equal(restored.state_dict(), network.state_dict())
    assert info == {
        "settings": {"gamma": 0.99},
        "steps": 1234,
        "best_return": 56.5,
        "seconds": 7.25,
    }


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_restored_optimisers_go_on_as_the_originals(kind):
    """Two networks with an optimiser each, of either kind, take the same further steps."""
    pairs, others = [learner(0, kind), learner(1, kind)], [learner(2, kind), learner(3, kind)]
    for network, optimiser in pairs:
        train(network, optimiser, range(3))
    networks, optimisers = zip(*pairs, strict=True)
    tensors = learner_tensors({"a": networks[0], "b": networks[1]}, *optimisers)
    restored, its_optimisers = zip(*others, strict=True)
    restore_learner(tensors, {"a": restored[0], "b": restored[1]}, *its_optimisers)
    for (network, optimiser), (other, its) in zip(pairs, others, strict=True):
        train(network, optimiser, range(3, 6))
        train(other, its, range(3, 6))
        assert equal(other.state_dict(), network.state_dict())


def test_learner_tensors_are_copies():
    """What was taken for a checkpoint does not change when the training goes on."""
    network, optimiser = learner()
    train(network, optimiser, range(2))
    taken = learner_tensors({"policy": network}, optimiser)
    before = {name: tensor.clone() for name, tensor in taken.items()}
    train(network, optimiser, range(2, 4))
    assert equal(taken, before)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.5])},
        {"b": torch.tensor([1.0, 2.0])},
        {"a": torch.tensor([[1.0, 2.0]])},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(0)},
        {"a": torch.tensor([1.0, 2.0]).view(torch.int32)},
    ],
    ids=["value", "name", "shape", "type", "more", "same bits"],
)
def test_digest_sees_every_difference(other):
    """A hash stands for values, names, shapes and types."""
    tensors = {"a": torch.tensor([1.0, 2.0])}
    assert digest(tensors) == digest({"a": torch.tensor([1.0, 2.0])})
    assert digest(other) != digest(tensors)


def test_flipped_bits_in_weights_are_refused(saved):
    """Of 1000 weight files with one wrong bit none is loaded."""
    path = weights_of(saved)
    content = path.read_bytes()
    for bit in some_bits(content):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(CheckpointError):
            load_agent(ENV_ID, saved)


def test_flipped_bits_in_a_checkpoint_are_refused(checkpoint):
    """Of 1000 checkpoints with one wrong bit, in tensors or in counters, none is read."""
    content = checkpoint.read_bytes()
    for bit in some_bits(content):
        checkpoint.write_bytes(flipped(content, bit))
        with pytest.raises(CheckpointError):
            read_tensors(checkpoint)


def test_flipped_bits_in_the_counters_are_refused(checkpoint):
    """Steps, returns and settings with one wrong bit are not read either."""
    content = checkpoint.read_bytes()
    begin = content.index(b'"info"')
    end = content.index(b"}}", begin)
    for bit in random.Random(0).sample(range(8 * begin, 8 * end), 200):
        checkpoint.write_bytes(flipped(content, bit))
        with pytest.raises(CheckpointError):
            read_tensors(checkpoint)


def test_flipped_bits_in_a_card_never_change_the_agent(saved):
    """Of 1000 cards with one wrong bit each is refused, or is wrong in its remarks only."""
    content = saved.read_bytes()
    before = load_agent(ENV_ID, saved)
    refused = 0
    for bit in some_bits(content):
        saved.write_bytes(flipped(content, bit))
        try:
            agent = load_agent(ENV_ID, saved)
        except ValueError:  # a CheckpointError, or the card is for another id now
            refused += 1
        else:
            assert equal(parameters(agent), parameters(before))
            assert (agent.algo, agent.policy.hidden) == ("reinforce", (8,))
            assert agent.env == EnvConfig(ENV_ID)
            assert agent.weights_hash == before.weights_hash
    assert refused > FLIPS / 2


@pytest.mark.parametrize("of", ["card", "weights"])
def test_truncated_agents_are_refused(saved, of):
    """A card or weights cut short anywhere are refused."""
    path = saved if of == "card" else weights_of(saved)
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            load_agent(ENV_ID, saved)


def test_truncated_checkpoints_are_refused(checkpoint):
    """So is a checkpoint, and one with something behind its end."""
    content = checkpoint.read_bytes()
    for length in range(0, len(content), 7):
        checkpoint.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_tensors(checkpoint)
    checkpoint.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError):
        read_tensors(checkpoint)


def test_missing_files_are_named(saved, tmp_path):
    """A missing card or checkpoint is a FileNotFoundError, missing weights a CheckpointError."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        load_agent(ENV_ID, tmp_path / "nothing.json")
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        read_tensors(tmp_path / "nothing.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        load_agent(ENV_ID, tmp_path / "empty")
    weights_of(saved).unlink()
    with pytest.raises(CheckpointError, match=r"best-\w+\.safetensors"):
        load_agent(ENV_ID, saved)


MISFITS = {
    "missing": lambda w: {k: v for k, v in w.items() if k != "2.bias"},
    "extra": lambda w: {**w, "4.bias": w["2.bias"].clone()},
    "renamed": lambda w: {k.replace("2.", "1."): v for k, v in w.items()},
    "shape": lambda w: {**w, "0.weight": w["0.weight"][:, :3].contiguous()},
    "transposed": lambda w: {**w, "0.weight": w["0.weight"].T.contiguous()},
    "float64": lambda w: {**w, "0.weight": w["0.weight"].double()},
    "int32": lambda w: {**w, "0.weight": w["0.weight"].int()},
    "nan": lambda w: {**w, "0.bias": torch.full((8,), torch.nan)},
    "one inf": lambda w: {
        **w,
        "0.weight": w["0.weight"].index_fill(1, torch.tensor(2), -torch.inf),
    },
    "empty": lambda w: {},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused(saved, misfit):
    """Weights with a right hash but wrong names, shapes, types or numbers are refused."""
    weights = MISFITS[misfit](parameters(untrained()))
    give_weights(saved, save(weights))
    with pytest.raises(CheckpointError, match="weights"):
        load_agent(ENV_ID, saved)


@pytest.mark.parametrize("misfit", MISFITS)
def test_refused_weights_change_nothing(misfit):
    """A network keeps its weights when others are refused."""
    network = untrained().policy.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_module(network, MISFITS[misfit](parameters(untrained(1))))
    assert equal(network.state_dict(), before)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**63]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
    ],
    ids=["petabytes", "overflow", "backwards", "objects"],
)
def test_lying_headers_are_refused(saved, checkpoint, header):
    """A header that promises more than the file holds allocates nothing."""
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(8)
    give_weights(saved, content)
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, saved)
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_tensors(checkpoint)


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_pickle(evil):
    return pickle.dumps(evil)


def as_torch(evil):
    file = io.BytesIO()
    torch.save({"0.weight": evil}, file)
    return file.getvalue()


def as_old_torch(evil):
    file = io.BytesIO()
    torch.save({"0.weight": evil}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def as_sb3(evil):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": ""}}))
        archive.writestr("policy.pth", as_torch(evil))
    return file.getvalue()


def as_numpy(evil):
    file = io.BytesIO()
    np.save(file, np.array([evil], object), allow_pickle=True)
    return file.getvalue()


HOSTILE = [as_pickle, as_torch, as_old_torch, as_sb3, as_numpy]


def test_evil_is_evil(tmp_path):
    """The hostile files do run their code where somebody unpickles them."""
    for number, make in enumerate((as_pickle, as_torch, as_old_torch)):
        marker = tmp_path / f"ran {number}"
        content = io.BytesIO(make(Evil(marker)))
        if make is as_pickle:
            pickle.load(content)
        else:
            torch.load(content, weights_only=False)
        assert marker.exists()


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", ["card", "weights", "checkpoint", "checkpoint of a run"])
def test_hostile_files_are_refused_unopened(saved, checkpoint, tmp_path, make, place):
    """A pickle, torch file or zip under our names is refused, and its code is not run."""
    marker = tmp_path / "ran"
    content = make(Evil(marker))
    with pytest.raises(CheckpointError):
        if place == "card":
            saved.write_bytes(content)
            load_agent(ENV_ID, saved)
        elif place == "weights":
            give_weights(saved, content)
            load_agent(ENV_ID, saved)
        else:
            checkpoint.write_bytes(content)
            if place == "checkpoint":
                read_tensors(checkpoint)
            else:
                Run(tmp_path, ReinforceConfig(env_id=ENV_ID), resume=True)
    assert not marker.exists()


@pytest.mark.parametrize(
    "weights",
    [
        *("../outside.safetensors", "{parent}/outside.safetensors", "sub/../x.safetensors"),
        *("..", ".", "", "a\0b", "x" * 300, "\ud800", 5, True, [], {}, ["best.json"]),
    ],
    ids=repr,
)
def test_a_card_cannot_point_elsewhere(saved, weights):
    """Only a file beside the card is read, though the one elsewhere has the right hash."""
    outside = saved.parent.parent / "outside.safetensors"
    outside.write_bytes(weights_of(saved).read_bytes())
    if isinstance(weights, str):
        weights = weights.replace("{parent}", str(saved.parent.parent))
    rewrite(saved, weights=weights)
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, saved)


@pytest.mark.parametrize(
    "hidden",
    [
        *([4097], [4096] * 9, [10**30], [0], [-8], [8.0], ["8"], [True], [[8]], [None]),
        *("8", {"8": 8}, {}, 8, True, [float("nan")], [float("inf")], [9], [], [8, 8]),
    ],
    ids=repr,
)
def test_other_widths_are_refused(saved, hidden):
    """Widths that are huge, no widths at all, or not those of the weights."""
    rewrite(saved, hidden=hidden)
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, saved)


@pytest.mark.parametrize(
    "name",
    [
        *("schema_version", "algo", "env_id", "env_kwargs", "renderer", "frame_stack"),
        *("action_repeat", "observe_actions", "hold_dropped", "hidden", "weights", "sha256"),
    ],
)
def test_every_entry_of_a_card_is_checked(saved, name):
    """A card is refused where an entry is missing or of another kind."""
    content = saved.read_text()
    for value in (None, 5, -1, 1.5, "x", "", [], ["x"], [[]]):
        rewrite(saved, **{name: value})
        # "x" could be another environment's id.
        with pytest.raises(ValueError if name == "env_id" else CheckpointError):
            load_agent(ENV_ID, saved)
        saved.write_text(content)


@pytest.mark.parametrize("name", ["frame_stack", "action_repeat"])
@pytest.mark.parametrize("value", [0, -1, 257, 10**30, 1.0, True, "1", [1], float("nan")], ids=repr)
def test_other_stacks_and_repeats_are_refused(saved, name, value):
    """Neither a number that no setting may have, nor what is no whole number."""
    rewrite(saved, settings=None, **{name: value})
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, saved)


def test_the_longest_stack(tmp_path):
    """An agent of as many frames as a setting may have is loaded, and one of more is refused."""
    for frames in (256, 257):
        agent = new_agent(algorithm("dqn").policy, EnvConfig(ENV_ID, {}, frames), ())
        agent.save(tmp_path / f"{frames}.json")
    assert load_agent(ENV_ID, tmp_path / "256.json").env.frame_stack == 256
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, tmp_path / "257.json")


def test_a_card_that_contradicts_itself_is_refused(saved):
    """No weights tell of the repeat or the keywords: what the settings say must agree."""
    content = saved.read_text()
    for change in ({"action_repeat": 2}, {"env_kwargs": {"force": 5}}, {"settings": 5}):
        rewrite(saved, **change)
        with pytest.raises(CheckpointError):
            load_agent(ENV_ID, saved)
        saved.write_text(content)
    rewrite(saved, settings=None, action_repeat=2)
    assert load_agent(ENV_ID, saved).env.action_repeat == 2


@pytest.mark.parametrize("frame_stack", [1, 2, 4])
def test_a_stack_that_is_not_of_the_weights_is_refused(tmp_path, env_id, frame_stack):
    """Weights for three frames take neither fewer nor more."""
    env = EnvConfig(env_id, {"size": 36} if env_id in PIXEL_IDS else {}, 3)
    new_agent(algorithm("dqn").policy, env, (8,)).save(tmp_path / "card.json")
    rewrite(tmp_path / "card.json", frame_stack=frame_stack)
    with pytest.raises(CheckpointError, match="weights"):
        load_agent(env_id, tmp_path / "card.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"best"',
        b"\xff\xfe",
        bytes(100),
        b"[" * 100_000,
        b'{"hidden":' * 100_000,
        b"1" * 100_000,
    ],
    ids=lambda content: repr(content[:10]),
)
def test_what_is_no_card_is_refused(saved, content):
    """Whatever a card's file holds, the error is one and the same."""
    saved.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_agent(ENV_ID, saved)


def test_a_card_of_the_future_is_refused(saved):
    """A card of another schema is not guessed at."""
    rewrite(saved, schema_version=2)
    with pytest.raises(CheckpointError, match="version"):
        load_agent(ENV_ID, saved)


def test_an_agent_of_another_id_is_refused(saved):
    """The error names both ids."""
    with pytest.raises(ValueError, match=r"BulletCartPole-v0.*BalancingPlate-v0"):
        load_agent("BalancingPlate-v0", saved)


def test_the_id_of_a_card_is_not_imported(saved, tmp_path, monkeypatch):
    """A card for module:Id imports nothing; whoever gives that id imports it themselves."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(saved, env_id="evil_module:Other-v0")
    with pytest.raises(ValueError, match="is an agent for evil_module:Other-v0, not for"):
        load_agent(ENV_ID, saved)
    rewrite(saved, env_id=f"evil_module:{ENV_ID}")
    assert load_agent(ENV_ID, saved).env_id == ENV_ID
    assert load_agent(f"bullet_envs:{ENV_ID}", saved).env_id == f"bullet_envs:{ENV_ID}"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        *(("render_mode", "human"), ("max_episode_steps", 10**6), ("disable_env_checker", True)),
        *(("autoreset", True), ("num_envs", 3), ("vectorization_mode", "async")),
        *(("wrappers", []), ("vector_kwargs", {}), ("autoreset_mode", "SameStep"), ("id", "x")),
    ],
)
def test_a_card_cannot_change_how_its_environment_is_made(saved, name, value):
    """Arguments of gym.make and make_vec among the keywords are refused by name."""
    rewrite(saved, env_kwargs={name: value}, settings=None)
    with pytest.raises(CheckpointError, match=f"sets {name}, which a card may not"):
        load_agent(ENV_ID, saved)
    with pytest.raises(ValueError, match=f"env_kwargs cannot set {name}"):
        ReinforceConfig(env_id=ENV_ID, env_kwargs={name: value})


@contextlib.contextmanager
def within(seconds):
    """Interrupt what takes longer."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("place", ["card", "weights", "checkpoint", "progress"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(saved, tmp_path, place, kind):
    """A named pipe, /dev/zero or a folder under our names is refused at once."""
    folder = tmp_path / "run"
    with Run(folder, ReinforceConfig(env_id=ENV_ID), progress=False) as run:
        run.checkpoint(LearnerState())
    path = {
        "card": saved,
        "weights": weights_of(saved),
        "checkpoint": folder / "checkpoint.safetensors",
        "progress": folder / "progress.csv",
    }[place]
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with within(10), pytest.raises((CheckpointError, OSError)) as caught:
        if place in ("card", "weights"):
            load_agent(ENV_ID, saved)
        else:
            Run(folder, run.config, resume=True, progress=False)
    assert not isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize(
    "setting, value",
    [
        *(("seed", 1), ("gamma", 0.5), ("env_kwargs", {"force": 5.0}), ("hidden", (8,))),
        *(("frame_stack", 2), ("action_repeat", 2)),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path, setting, value):
    """A training goes on with its own settings only; the error names the one that differs."""
    folder = tmp_path / "run"
    with Run(folder, ReinforceConfig(env_id=ENV_ID), progress=False) as run:
        run.checkpoint(LearnerState())
    with pytest.raises(CheckpointError, match=setting):
        Run(folder, ReinforceConfig(env_id=ENV_ID, **{setting: value}), resume=True)


def test_a_run_is_resumed_where_it_was(tmp_path):
    """All counters come back; the number of steps is the one setting that may differ."""
    folder = tmp_path / "run"
    with Run(folder, ReinforceConfig(env_id=ENV_ID), progress=False) as run:
        run.advance(500)
        run.best_return, run.solved_in_a_row = 123.5, 1
        run.checkpoint(LearnerState({"a": torch.arange(3)}, {"b": [0.1]}))
        run.advance(77)
        seconds = run.seconds
    longer = ReinforceConfig(env_id=ENV_ID, n_timesteps=10**6)
    with Run(folder, longer, resume=True, progress=False) as run:
        assert (run.steps, run.best_return, run.solved_in_a_row) == (500, 123.5, 1)
        assert equal(run.restored.tensors, {"a": torch.arange(3)})
        assert run.restored.values == {"b": [0.1]}
        assert 0 < run.seconds < seconds + 60
        assert not run.finished


def test_there_is_nothing_to_resume(tmp_path):
    """The error says so; a folder is named only if there is one."""
    for folder in (tmp_path / "never" / "was", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no training to resume") as caught:
            Run(folder, ReinforceConfig(env_id=ENV_ID), resume=True)
        assert (str(folder) in str(caught.value)) == folder.exists()
        assert not (tmp_path / "never").exists() and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    """One sentence says where and why, without an error number."""
    (tmp_path / "file").write_text("")
    for folder in (Path("/proc/run"), tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=f"^cannot write a training into {folder}: [a-z ]+$"):
            Run(folder, ReinforceConfig(env_id=ENV_ID))


LOG = {
    "another column": "steps,loss\n1,2\n",
    "semicolons": "time/total_timesteps;loss\n1;2\n",
    "no number": "time/total_timesteps,loss\nx,2\n",
    "too long a line": "time/total_timesteps,loss\n1,2,3\n",
    "an empty line end": "time/total_timesteps,loss\n,3\n",
    "bytes": b"\xff\xfe\0\0",
    "a null": "time/total_timesteps,loss\n1,\0\n",
}


@pytest.mark.parametrize("content", LOG.values(), ids=LOG)
def test_a_log_that_was_edited_is_refused(tmp_path, content):
    """A progress.csv of another form is a CheckpointError of one line, or is read as it is."""
    folder = tmp_path / "run"
    with Run(folder, ReinforceConfig(env_id=ENV_ID), progress=False) as run:
        run.advance(10)
        run.log({"loss": 0.5})
        run.checkpoint(LearnerState())
    with Run(folder, run.config, resume=True, progress=False):
        pass
    path = folder / "progress.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        with Run(folder, run.config, resume=True, progress=False):
            assert "\0" in content
    except CheckpointError as error:
        assert "progress.csv" in str(error) and "\n" not in str(error)


TRAININGS = {
    "reinforce": {
        **{"n_timesteps": 300, "episodes": 4, "baseline_epochs": 2, "baseline_buffer": 100},
    },
    "dqn": {"n_timesteps": 304, "save_freq": 152, "learning_starts": 80, "n_steps": 2},
    "a2c": {"n_timesteps": 256, "n_steps": 8, "save_freq": 128},
    "ppo": {"n_timesteps": 256, "n_steps": 8, "batch_size": 64, "save_freq": 128},
    "sb3-ppo": {"n_timesteps": 256, "n_steps": 8, "batch_size": 64, "save_freq": 128},
    "sb3-a2c": {"n_timesteps": 160, "save_freq": 80},
    "sb3-dqn": {"n_timesteps": 160, "save_freq": 80, "learning_starts": 64, "batch_size": 8},
    "sb3-sac": {
        **{"n_timesteps": 160, "save_freq": 80, "learning_starts": 64, "batch_size": 8},
        **{"gradient_steps": 1, "env_kwargs": {"continuous": True}},
    },
}


@pytest.fixture(
    params=[
        pytest.param(algo, marks=pytest.mark.sweep)
        for algo in TRAINED_HERE
        if algo not in ("sb3-a2c", "sb3-dqn")  # as sb3-ppo and sb3-sac
    ]
)
def trained(request, tmp_path):
    """Return algorithm, run and a longer config of a short training with a checkpoint."""
    learner = algorithm(request.param)
    config = learner.config(env_id=ENV_ID, hidden=(), eval_freq=10**9, **TRAININGS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "evaluate", lambda run, agent: None)
        with Run(tmp_path / "run", config, progress=False) as run:
            learner.train(config, run)
        # So that a forged checkpoint that is read is also learned from.
        longer = dataclasses.replace(config, n_timesteps=2 * config.n_timesteps)
        yield learner, tmp_path / "run", longer


def wrong(tensor):
    """Return tensors that cannot stand in for one."""
    integral = not tensor.is_floating_point()
    yield tensor.reshape(-1)[:0]
    yield tensor[None]
    yield tensor.double() if not integral else tensor.float()
    yield tensor.to(torch.int16)
    if integral and tensor.dtype != torch.uint8:
        yield tensor - 1000 if tensor.dtype != torch.bool else tensor.int()
        yield tensor + 10**9 if tensor.dtype != torch.bool else tensor.float()
    elif tensor.is_floating_point() and tensor.numel():
        yield torch.full_like(tensor, torch.nan)


def forgeries(tensors, info):
    """Return checkpoints with one wrong part each, and its name."""
    for name, tensor in tensors.items():
        others = {k: v for k, v in tensors.items() if k != name}
        yield f"without {name}", others, info
        yield f"{name} renamed", {**others, "x." + name: tensor}, info
        for number, other in enumerate(wrong(tensor)):
            yield f"{name} {number}", {**others, name: other.clone().contiguous()}, info
    for values, put in (
        (info, lambda new: new),
        (info["learner"], lambda new: {**info, "learner": new}),
    ):
        for name in values:
            yield f"without {name}", tensors, put({k: v for k, v in values.items() if k != name})
            for other in (None, -1, "x", [], ["x"], [None], {}, {"x": "y"}, 10**30, 1.5):
                yield f"{name} is {other!r}", tensors, put({**values, name: other})
    yield "no tensors", {}, info


def test_forged_checkpoints_are_refused(trained):
    """One wrong tensor or value with a right SHA-256 is a CheckpointError of one line.

    A few are harmless, as a loss that is another number; those are trained on.
    """
    learner, folder, config = trained
    path = folder / "checkpoint.safetensors"
    log = (folder / "progress.csv").read_bytes()
    tensors, info, _ = read_tensors(path)
    assert info["steps"] > 0 and info["learner"] is not None
    refused, count = 0, 0
    for name, forged_tensors, forged_info in forgeries(tensors, info):
        write_tensors(path, forged_tensors, forged_info)
        (folder / "progress.csv").write_bytes(log)
        count += 1
        try:
            with Run(folder, config, resume=True, progress=False) as run:
                learner.train(config, run)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error), name
        except Exception as error:
            raise AssertionError(name) from error
    assert refused > 0.75 * count


@pytest.mark.parametrize("text", ["[]", "5", "null", "{", "[" * 100_000, '{"steps": 1}', "NaN"])
def test_a_checkpoint_without_our_json_is_refused(tmp_path, text):
    """Whatever stands there under a right SHA-256, the error is one line."""
    tensors = {"a": torch.zeros(1)}
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save(tensors, {"info": text, "sha256": digest(tensors, text)}))
    with pytest.raises(CheckpointError) as caught:
        Run(tmp_path, ReinforceConfig(env_id=ENV_ID), resume=True, progress=False)
    assert "\n" not in str(caught.value)


def test_resuming_sweeps_up_after_a_kill(tmp_path):
    """Temporary files of a save that was killed are gone after a resume; others stay."""
    folder = tmp_path / "run"
    with Run(folder, ReinforceConfig(env_id=ENV_ID), progress=False) as run:
        run.checkpoint(LearnerState())
    (folder / ".best.json.abc.part").write_bytes(b"torn")
    (folder / "notes.part").write_bytes(b"mine")
    with Run(folder, run.config, resume=True, progress=False):
        pass
    assert [path.name for path in folder.iterdir() if "part" in path.name] == ["notes.part"]


def test_a_new_run_never_overwrites_one(tmp_path):
    """A folder that is there already is refused, and left as it is."""
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError):
        Run(tmp_path / "run", ReinforceConfig(env_id=ENV_ID))
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")])
@pytest.mark.parametrize("call, time", [("fsync", 1), ("replace", 1), ("fsync", 2), ("replace", 2)])
def test_a_save_that_fails_keeps_the_old_agent(saved, monkeypatch, call, time, error):
    """Stopped at any point, a save leaves the old pair and no temporary file."""
    before = load_agent(ENV_ID, saved).weights_hash
    real, calls = getattr(os, call), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == time:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(os, call, failing)
        untrained(1).save(saved)
    assert len(calls) == time
    assert load_agent(ENV_ID, saved).weights_hash == before
    assert not [path for path in saved.parent.iterdir() if ".part" in path.name]

    untrained(1).save(saved)
    assert load_agent(ENV_ID, saved).weights_hash != before
    assert len(list(saved.parent.iterdir())) == 2


KILL = """
import os, random, signal, sys, time
from pathlib import Path

import torch
from bullet_envs.agents import load_agent
from bullet_envs.agents.checkpoints import digest, read_tensors, write_tensors
from bullet_envs.agents.environment import EnvConfig
from bullet_envs.agents import new_agent
from bullet_envs.agents.reinforce import ReinforcePolicy

torch.set_num_threads(1)
folder, kills = Path("run"), int(sys.argv[1])
agents, checkpoints = [], []
for which in range(2):
    agents.append(new_agent(ReinforcePolicy, EnvConfig("BulletCartPole-v0"), (256, 256)))
    checkpoints.append({"buffer": torch.full((200_000,), float(which))})


def save(which):
    write_tensors(folder / "checkpoint.safetensors", checkpoints[which], {"which": which})
    agents[which].save(folder / "best.json")


for which in range(2):
    save(which)
hashes = [agent.weights_hash for agent in agents]
seen, random_ = set(), random.Random(0)
for kill in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save(kill % 2)
        os.write(writer, b"!")
        while True:
            save(0)
            save(1)
    os.read(reader, 1)
    time.sleep(random_.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
    seen.add(hashes.index(load_agent("BulletCartPole-v0", folder).weights_hash))
    tensors, info, _ = read_tensors(folder / "checkpoint.safetensors")
    assert torch.equal(tensors["buffer"], checkpoints[info["which"]]["buffer"])
assert seen == {0, 1}, "the child saved nothing"
"""


@pytest.mark.slow
def test_kill_while_saving_leaves_readable_files(run_python):
    """After each of 30 `kill -9` in repeated saves, agent and checkpoint are one of two whole."""
    done = run_python(KILL, "30")
    assert done.returncode == 0, done.stderr.decode()


def test_the_network_is_never_built_for_a_hash_that_is_wrong(saved, monkeypatch):
    """Damage is found before anything of the file is used."""
    weights_of(saved).write_bytes(b"damaged")
    monkeypatch.setattr(ReinforcePolicy, "build", lambda agent: pytest.fail("built"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_agent(ENV_ID, saved)


@pytest.mark.parametrize("env_id, algo", BUNDLED)
def test_bundled_agent_is_whole(env_id, algo):
    """Each bundled card is of its name, with the hash of the one weights file beside it."""
    card = pretrained_card(env_id, algo)
    content = json.loads(card.read_text())
    assert (content["env_id"], content["algo"]) == (env_id, algo)
    assert [path.name for path in card.parent.glob(f"{card.stem}-{8 * '?'}.*")] == [
        content["weights"]
    ]
    assert load_agent(env_id, algo).weights_hash == content["sha256"]
    assert {"seed", "steps", "settings", "versions"} <= content.keys()

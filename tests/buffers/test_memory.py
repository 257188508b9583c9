"""What buffers take of memory and disk: estimated, used, limited, given back."""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ext import (
    FrameDedupReplayBuffer,
    PrioritizedFrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
    estimate_memory,
)
from sb3_ext.buffers import memory
from sb3_ext.buffers.frames import LZ4Frames
from tests.support.frames import ACTIONS, fill, make

ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def test_nothing_is_allocated_before_the_first_transition(tmp_path: Path) -> None:
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().vms
    path = tmp_path / "frames"
    buffers = [make(space=ATARI, buffer_size=10_000_000), make(space=ATARI, buffer_size=50_000, storage_path=path)]
    assert process.memory_info().vms - before < 10_000_000 * 2 * 4 * 4 * 84  # far less than the 70 GB of the frames
    assert not path.exists()
    assert all(buffer.size() == 0 for buffer in buffers)


def test_what_does_not_fit_into_memory_is_refused_with_the_figures() -> None:
    buffer = make(space=ATARI, buffer_size=10**9)
    with pytest.raises(MemoryError, match=r"buffer_size=1000000000 needs 71\d\d\.\d\d GB of RAM .* GB are free"):
        fill(buffer, 1)
    assert buffer.size() == 0


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\nfile 1000000\nfile_mapped 7\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 3_000_000  # 5 MB, of which 3 are used, of which 1 can be given back
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 3_000_000


def test_the_estimate_is_what_is_used_in_the_end() -> None:
    kwargs = dict(space=spaces.Box(0, 255, (4, 32, 32), np.uint8), buffer_size=2000, n_envs=4)
    for buffer_class in (FrameDedupReplayBuffer, PrioritizedReplayBuffer, PrioritizedFrameDedupReplayBuffer):
        buffer = make(buffer_class, **kwargs)
        fill(buffer, 600)
        assert buffer.nbytes() == pytest.approx(buffer.expected_nbytes(), rel=0.1)


@pytest.mark.parametrize(("channels", "n_stack"), [(3, 1), (12, 4), (5, 5)])
def test_channels_in_threes_are_reckoned_as_colors(channels: int, n_stack: int) -> None:
    space = spaces.Box(0, 255, (channels, 16, 16), np.uint8)
    expected = estimate_memory(FrameDedupReplayBuffer, 1000, space, ACTIONS, n_stack=n_stack)
    assert estimate_memory(FrameDedupReplayBuffer, 1000, space, ACTIONS) == expected


def test_the_estimate_of_a_million_atari_transitions() -> None:
    def per_transition(buffer_class: type, **kwargs: Any) -> float:
        return estimate_memory(buffer_class, 10**6, ATARI, ACTIONS, n_envs=8, **kwargs) / 10**6

    assert per_transition(ReplayBuffer) == 2 * 28_224 + 8 + 3 * 4
    frame, rows, rest = 84 * 84, 2 * 4 * 4, 20
    assert per_transition(FrameDedupReplayBuffer) == pytest.approx(frame + rows + rest, rel=1e-3)
    assert per_transition(FrameDedupReplayBuffer, storage_path="x") == pytest.approx(rows + rest, rel=0.05)
    assert per_transition(FrameDedupReplayBuffer, compression="lz4") < 1200
    vectors = spaces.Dict({"a": spaces.Box(-1, 1, (3,), np.float64), "b": spaces.Discrete(5)})
    assert estimate_memory(DictReplayBuffer, 10, vectors, ACTIONS) == 10 * (2 * (24 + 8) + 20)
    with pytest.raises(ValueError, match="buffer_class=NStepReplayBuffer must be"):
        estimate_memory(NStepReplayBuffer, 10, ATARI, ACTIONS)


def test_the_file_is_made_at_the_first_transition_and_removed_with_the_buffer(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    buffer = make(storage_path=path)
    assert not path.exists()
    fill(buffer, 31)
    assert path.stat().st_size >= 20 * 5 * 7
    copy = pickle.loads(pickle.dumps(buffer))
    assert len(list(tmp_path.iterdir())) == 2  # the copy has a file of its own
    fill(copy, 5, seed=1)
    buffer.check_valid()
    copy.check_valid()
    del buffer, copy
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_files_of_several_buffers(tmp_path: Path) -> None:
    buffers = [make(storage_path=tmp_path, n_stack=3) for _ in range(2)]
    for buffer in buffers:
        fill(buffer, 3)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_bytes(b"precious")
    buffer = make(storage_path=path, n_stack=3)
    with pytest.raises(FileExistsError, match="storage_path exists, and nothing is overwritten"):
        fill(buffer, 1)
    assert path.read_bytes() == b"precious"
    assert buffer.size() == 0


def test_a_disk_without_room_is_refused_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10**18)
    buffer = make(space=ATARI, buffer_size=10**9, storage_path=tmp_path / "frames", n_stack=4)
    with pytest.raises(OSError, match=r"storage_path needs 70\d\d\.\d\d GB, .* are free on that disk"):
        fill(buffer, 1)
    assert not (tmp_path / "frames").exists()
    assert buffer.size() == 0
    with pytest.raises(OSError, match="storage_path needs"):
        memory.MappedFile(tmp_path / "other").new(10**18)


def test_frames_larger_than_expected_grow_in_place(tmp_path: Path) -> None:
    for where in (None, tmp_path / "frames"):
        buffer = make(storage_path=where, n_stack=3, buffer_size=400)
        stock = ReplayBuffer(400, buffer.observation_space, ACTIONS, "cpu", 2)
        rng = np.random.default_rng(0)
        for _ in range(250):  # every transition is an episode of its own: three frames are new, and not one
            obs, next_obs = (rng.integers(1, 255, (2, 3, 5, 7), dtype=np.uint8) for _ in range(2))
            next_obs[:, :-1] = obs[:, 1:]
            step = (obs, next_obs, np.zeros((2, 1), dtype=int), np.ones(2), np.ones(2, dtype=bool), [{}] * 2)
            buffer.add(*step)
            stock.add(*step)
        buffer.check_valid()
        slots = np.arange(200)
        for env in range(2):
            got = buffer.samples_at(slots, np.full(200, env))
            assert (got.observations.numpy() == stock.observations[:, env]).all()
            assert (got.next_observations.numpy() == stock.next_observations[:, env]).all()


def test_without_lz4_the_error_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['lz4'] = None\n"
        "import numpy as np\nfrom gymnasium import spaces\nfrom sb3_ext import FrameDedupReplayBuffer\n"
        "space = spaces.Box(0, 255, (4, 8, 8), np.uint8)\n"
        "FrameDedupReplayBuffer(9, space, spaces.Discrete(2), compression='lz4')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert "ImportError: compression='lz4' needs the package lz4: pip install 'lz4>=4'" in result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_leaves_the_file_alone(tmp_path: Path) -> None:
    buffer = make(storage_path=tmp_path / "frames")
    fill(buffer, 3)
    code = "import os, sys; pid = os.fork(); sys.exit(0) if pid == 0 else os.waitpid(pid, 0)"
    script = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "b = t.make(storage_path=sys.argv[1]); t.fill(b, 3)\n"
        f"{code}\n"
        "assert os.path.exists(sys.argv[1])\n"
    )
    path = tmp_path / "other"
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not path.exists()  # and the parent has removed it at its end


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = make(storage_path="frames", n_stack=3)
    fill(buffer, 3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    copy = pickle.loads(pickle.dumps(buffer))
    assert len(list(tmp_path.glob("frames*"))) == 2
    del buffer, copy
    gc.collect()
    assert list(tmp_path.glob("frames*")) == []


def test_compressed_frames_in_a_file_need_few_descriptors(tmp_path: Path) -> None:
    frames = LZ4Frames(300_000, memory.MappedFile(tmp_path / "frames"), 1000)
    noise = np.random.default_rng(0).integers(0, 255, (1, 300_000), dtype=np.uint8)
    before = psutil.Process().num_fds()
    for row in range(400):  # 120 MB
        frames.write(np.array([row]), noise)
    assert psutil.Process().num_fds() - before < 10
    assert (frames.read(np.array([0, 399])) == noise).all()


def test_frames_stay_readable_when_there_is_no_room_for_more() -> None:
    class Full(memory.RAM):
        def new(self, n_bytes: int) -> np.ndarray:
            raise OSError("no room")

    frames = LZ4Frames(1000, Full(), 10)
    data = np.random.default_rng(0).integers(0, 255, (4, 1000), dtype=np.uint8)
    frames.write(np.arange(3), data[:3])
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            frames.write(np.array([3]), data[3:])
        assert (frames.read(np.arange(3)) == data[:3]).all()


@pytest.mark.parametrize(
    "end",
    [
        "def end():\n    leave(7)\n",
        "def end():\n    print('ready', flush=True)\n    time.sleep(60)\nend_with_parent()\n",
    ],
)
def test_files_of_an_experiment_s_worker_are_removed(end: str, tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from sb3_ext.experiments.worker import end_with_parent, leave\n"
        f"{end}"
        "from tests.support.frames import fill, make\n"
        "buffer = make(storage_path=sys.argv[1], n_stack=3)\n"
        "buffer.itself = buffer\n"  # which keeps it alive
        "fill(buffer, 3)\n"
        "assert len(os.listdir(sys.argv[1])) == 1\n"
        "end()\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    process.stdin.close()
    assert process.wait(timeout=60) == (7 if "leave" in end else 1)
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []

"""Models and policies in files that are either complete or absent, under the names that SB3 gives them."""

import io
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import CallbackList, EveryNTimesteps, ProgressBarCallback
from stable_baselines3.common.save_util import load_from_zip_file

from tests.support.environments import StopAt
from tests.support.models import CLASSES, make
from tests.support.states import assert_equal


def save_model(model: Any, path: Path) -> None:
    model.save(path)


def save_policy(model: Any, path: Path) -> None:
    model.policy.save(path)


SAVE = pytest.mark.parametrize("save", [save_model, save_policy])


@SAVE
@pytest.mark.parametrize("cls", CLASSES)
def test_an_interruption_leaves_the_earlier_file(cls: Any, save: Any, tmp_path: Path, monkeypatch: Any) -> None:
    model = make(cls)
    path = tmp_path / "file.zip"
    save(model, path)
    earlier, th_save = path.read_bytes(), th.save
    with th.no_grad():
        next(model.policy.parameters()).add_(1.0)

    def interrupted(content: Any, file: Any, *args: Any) -> None:
        th_save(content, file, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(th, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(model, path)
    assert path.read_bytes() == earlier and list(tmp_path.iterdir()) == [path]


@SAVE
@pytest.mark.parametrize("cls", CLASSES)
def test_threads_that_save_under_one_name(cls: Any, save: Callable[..., None], tmp_path: Path) -> None:
    model, path, errors = make(cls), tmp_path / "file.zip", []

    def save_often() -> None:
        try:
            for _ in range(3):
                save(model, path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    assert errors == [] and list(tmp_path.iterdir()) == [path]
    if save is save_model:
        assert_equal(dict(cls.load(path, device="cpu").policy.state_dict()), dict(model.policy.state_dict()))


@pytest.mark.parametrize("as_type", [str, Path])
@pytest.mark.parametrize(
    "name", ["model", "model.zip", "model.v2", "model.", "new/folder/model", "folder", "folder.zip"]
)
def test_file_names_are_those_of_sb3(name: str, as_type: Any, tmp_path: Path) -> None:
    found = {}
    for cls in (DQN, CLASSES[1]):
        root = tmp_path / cls.__name__
        for folder in ("folder", "folder.zip", "folder.zip_2"):
            (root / folder).mkdir(parents=True)
        model = make(cls)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.save(as_type(root / name))
        messages = {str(warning.message).replace(str(root), "ROOT") for warning in caught}
        files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        found[cls] = files, messages
    assert found[CLASSES[1]] == found[DQN] and len(found[DQN][0]) == 1


@pytest.mark.parametrize("cls", CLASSES)
def test_open_files_and_what_is_saved_are_as_in_sb3(cls: Any) -> None:
    model, file = make(cls), io.BytesIO()
    model.save(file, exclude=["gamma"], include=["replay_buffer"])
    assert not file.closed
    data, _, _ = load_from_zip_file(file)
    assert data is not None and "gamma" not in data and "replay_buffer" in data
    policy = io.BytesIO()
    model.policy.save(policy)
    policy.seek(0)
    assert_equal(dict(type(model.policy).load(policy, "cpu").state_dict()), dict(model.policy.state_dict()))


INTERRUPTED = """
import os, signal
from stable_baselines3.common.callbacks import BaseCallback
from tests.support.models import make

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

class Interrupt(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return True

make().learn(30, Interrupt(), progress_bar=True)
"""


def test_python_ends_without_an_error_after_ctrl_c_in_a_progress_bar() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", INTERRUPTED]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in result.stderr and "ImportError" not in result.stderr


class Fail(StopAt):
    def _on_training_start(self) -> None:
        if self.step == 0:
            raise RuntimeError("failed")

    def _on_step(self) -> bool:
        if not super()._on_step():
            raise RuntimeError("failed")
        return True


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("wrap", [list, CallbackList, lambda callbacks: EveryNTimesteps(2, CallbackList(callbacks))])
def test_every_progress_bar_is_closed_when_training_fails(cls: Any, wrap: Any) -> None:
    bar, model = ProgressBarCallback(), make(cls)
    # The bar has not begun yet
    with pytest.raises(RuntimeError, match="failed"):
        model.learn(30, wrap([Fail(0), bar]))
    with pytest.raises(RuntimeError, match="failed"):
        model.learn(30, wrap([bar, EveryNTimesteps(2, None), Fail(10)]))
    assert bar.pbar.disable  # tqdm's sign of a closed bar
    assert model._callback is None  # nothing is left of it

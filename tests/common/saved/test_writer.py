"""Which class may load what another one wrote. SB3 itself lets any class with the same networks load a file."""

import copy
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch as th
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from sb3_ext.common.saved import writer
from tests.support.models import CLASSES, make
from tests.support.states import assert_equal, state

STOCK = [SAC, TQC, DQN, QRDQN, BaseAlgorithm]
SKIP_CHECK = {"_written_by": None}


class MyREDQ(REDQSAC):
    pass


class MyDoubleDQN(DoubleDQN):
    pass


class MySoftDQN(SoftDQN):
    pass


class MyIQN(IQN):
    pass


class MyOtherDoubleDQN(DoubleDQN):
    pass


class MySAC(SAC):
    pass


MINE: dict[Any, Any] = {REDQSAC: MyREDQ, DoubleDQN: MyDoubleDQN, SoftDQN: MySoftDQN, IQN: MyIQN}


# Neither is the other's base within the package
UNRELATED = [
    (cls, loader)
    for cls in [*CLASSES, MyDoubleDQN]
    for loader in [*STOCK, MySAC, *CLASSES, MyOtherDoubleDQN]
    if not issubclass(loader, cls) and not (loader in CLASSES and issubclass(cls, loader))
]


def full_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def save(cls: Any, folder: Path) -> Path:
    path = folder / f"{cls.__name__}.zip"
    make(cls).save(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    folder = tmp_path_factory.mktemp("saved")
    return {cls: save(cls, folder) for cls in [*CLASSES, MyDoubleDQN]}


@pytest.mark.parametrize(("cls", "loader"), UNRELATED)
def test_another_algorithm_is_an_error_that_names_both(cls: Any, loader: Any, saved: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"(?s){full_name(loader)} loads .*{full_name(cls)} wrote.*{cls.__name__}\.load"
    ):
        loader.load(saved[cls])


@pytest.mark.parametrize("cls", CLASSES)
def test_the_class_itself_says_nothing(cls: Any, saved: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(cls.load(saved[cls], device="cpu")) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_a_base_or_a_subclass_is_a_warning_that_names_both(cls: Any, saved: Any, tmp_path: Path) -> None:
    mine = MINE[cls]
    for path, wrote, loads in ((saved[cls], cls, mine), (save(mine, tmp_path), mine, cls)):
        with pytest.warns(UserWarning, match=f"{full_name(wrote)} wrote is loaded as {full_name(loads)}") as caught:
            assert type(loads.load(path, device="cpu")) is loads
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("module", ["mine", "__main__"])
def test_a_class_may_be_defined_again_and_move(module: str, tmp_path: Path) -> None:
    def define(module: str) -> Any:
        class Mine(DoubleDQN):
            pass

        Mine.__module__ = module
        return Mine

    path = save(define(module), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for again in (module, "moved"):
            define(again).load(path, device="cpu")


def test_the_same_name_for_another_algorithm_is_an_error(tmp_path: Path) -> None:
    namesake = type("MyDoubleDQN", (SoftDQN,), {"__module__": "elsewhere"})
    path = save(MyDoubleDQN, tmp_path)
    with pytest.raises(ValueError, match=r"elsewhere\.MyDoubleDQN loads"):
        namesake.load(path)


@pytest.mark.parametrize("cls", CLASSES)
def test_who_loads_no_model_is_not_checked(cls: Any, saved: Any) -> None:
    data, _, _ = load_from_zip_file(saved[cls])
    assert data is not None
    written_by = data["_written_by"]
    assert written_by.classes[0] == (cls.__module__, cls.__qualname__)
    assert copy.deepcopy(written_by).classes == written_by.classes


@pytest.mark.parametrize("cls", CLASSES)
def test_the_check_can_be_left_out(cls: Any, saved: Any, tmp_path: Path) -> None:
    """For a file that another class is meant to load, and for files from before the check."""
    parent, mine = (SAC if cls is REDQSAC else DQN), MINE[cls]
    model = cls.load(saved[cls], device="cpu")
    model.save(tmp_path / "old", exclude=["_written_by"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine.load(saved[cls], device="cpu", custom_objects=SKIP_CHECK)
        if cls is not SoftDQN:  # whose temperature SB3's DQN does not have
            assert type(parent.load(saved[cls], device="cpu", custom_objects=SKIP_CHECK)) is parent
        loaded = mine.load(tmp_path / "old", device="cpu")
    loaded.save(tmp_path / "again")
    with pytest.raises(ValueError, match=f"{full_name(mine)} wrote"):
        parent.load(tmp_path / "again")


STOCK_SETTINGS: dict[str, Any] = dict(buffer_size=200, learning_starts=20, device="cpu")


@pytest.mark.parametrize(("cls", "stock"), [pair for pair in product(CLASSES, STOCK[:-1]) if pair != (DoubleDQN, DQN)])
def test_files_of_other_algorithms_are_refused_with_what_can_be_done(cls: Any, stock: Any, tmp_path: Path) -> None:
    env = "Pendulum-v1" if stock in (SAC, TQC) else "CartPole-v1"
    stock("MlpPolicy", env, **STOCK_SETTINGS).save(tmp_path / "stock")
    remedy = r"from_sac\(SAC\.load" if cls is REDQSAC else "only those of SB3's DQN can be loaded, by DoubleDQN"
    with pytest.raises(ValueError, match=f"(?i)policy={stock.__name__}Policy must be.*give 'MlpPolicy'.*{remedy}"):
        cls.load(tmp_path / "stock", device="cpu")


def test_double_dqn_goes_on_with_a_file_of_dqn(tmp_path: Path) -> None:
    dqn = DQN("MlpPolicy", "CartPole-v1", seed=0, train_freq=1, learning_rate=0.01, **STOCK_SETTINGS).learn(60)
    dqn.save(tmp_path / "dqn")
    plain: dict[str, Any] = dict(double_q=False, float32_matmul_precision=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = [
            cls.load(tmp_path / "dqn", env=dqn.env, device="cpu", **kwargs)
            for cls, kwargs in ((DQN, {}), (DoubleDQN, plain), (DoubleDQN, {}))
        ]
    for model in models:
        model.set_random_seed(1)
        model.learn(40, reset_num_timesteps=False)
    reference, same, double = (state(model) for model in models)
    assert_equal(same, reference)
    assert models[0]._n_updates > dqn._n_updates
    assert models[2].double_q and any(not th.equal(value, reference[name]) for name, value in double.items())
    # From now on it is a file of DoubleDQN
    models[2].save(tmp_path / "double")
    with pytest.raises(ValueError, match=r"call DoubleDQN\.load"):
        DQN.load(tmp_path / "double")


class _WithoutLoad:
    pass


class _WithAnotherLoad:
    @classmethod
    def load(cls) -> None:
        pass


@pytest.mark.parametrize("sb3", [_WithoutLoad, _WithAnotherLoad])
def test_an_sb3_that_loads_in_another_way_is_no_failure(sb3: Any, saved: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "BaseAlgorithm", sb3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(SAC.load(saved[REDQSAC], device="cpu")) is SAC

"""oneDNN for float32 products: on only where it is wanted and exact, and restored whatever happens."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC

from sb3_ext import REDQSAC, DoubleDQN, float32_matmul_precision
from sb3_ext.speed import float32
from tests.support.models import CLASSES, make
from tests.support.states import assert_same_training

pytestmark = pytest.mark.skipif(
    not hasattr(th.backends.mkldnn, "matmul") or not th.backends.mkldnn.is_available(),
    reason="this torch has no such setting",
)
#: Whether ``"auto"`` uses oneDNN on this processor
AUTO = "bf16" if pytestmark.args[0] is False and float32.onednn_is_exact() else "none"


def setting() -> str:
    return th.backends.mkldnn.matmul.fp32_precision


def set_setting(value: str) -> None:
    th.backends.mkldnn.matmul.fp32_precision = value  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The setting is the same before and after each test, and so is the number of users."""
    assert setting() == "none"
    yield
    assert setting() == "none"
    assert float32._setting._n_users == 0


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which oneDNN is exact."""
    monkeypatch.setattr(float32, "onednn_is_exact", lambda: True)


def seen_while_training(model: Any) -> set[str]:
    """The values of the setting during the forward passes of ``train()``."""
    network = model.critic if isinstance(model, REDQSAC) else model.q_net
    seen: set[str] = set()
    model.learn(22)
    handles = [module.register_forward_pre_hook(lambda *_: seen.add(setting())) for module in network.modules()]
    model.train(2, batch_size=8)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("precision", ["auto", "medium", None])
def test_training_has_the_setting_and_restores_it(cls: Any, precision: Any) -> None:
    expected = {"auto": AUTO, "medium": "bf16", None: "none"}[precision]
    assert seen_while_training(make(cls, float32_matmul_precision=precision)) == {expected}


@pytest.mark.parametrize("cls", CLASSES)
def test_results_agree_within_rounding(cls: Any) -> None:
    # Layers wide enough for oneDNN
    settings: dict[str, Any] = dict(policy_kwargs=dict(net_arch=[64, 64]), batch_size=64)
    one, other = (make(cls, float32_matmul_precision=choice, **settings).learn(40) for choice in ("auto", None))
    assert_same_training(one, other)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("cls", CLASSES)
def test_an_exception_in_train_restores_the_setting(cls: Any) -> None:
    model = make(cls).learn(22)
    with th.no_grad():
        next(model.policy.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="nan"):
        model.train(2, batch_size=8)


@pytest.mark.usefixtures("exact")
def test_models_with_different_settings_take_turns() -> None:
    models = [make(cls, float32_matmul_precision=choice) for cls in (REDQSAC, DoubleDQN) for choice in ("auto", None)]
    for _ in range(2):
        assert [seen_while_training(model) for model in models] == [{"bf16"}, {"none"}] * 2
    models[0].float32_matmul_precision = None
    assert seen_while_training(models[0]) == {"none"}


def test_importing_sets_nothing() -> None:
    program = "import sb3_ext, torch as th; print(th.backends.mkldnn.matmul.fp32_precision)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "none"


def test_a_processor_with_amx_keeps_the_default_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: True)
    float32.onednn_is_exact.cache_clear()
    try:
        assert seen_while_training(make()) == {"none"}
        assert seen_while_training(make(float32_matmul_precision="medium")) == {"bf16"}
    finally:
        float32.onednn_is_exact.cache_clear()


@pytest.mark.parametrize("function", ["mm", "baddbmm", "matmul"])
def test_rounded_products_are_found_out(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing says that the processor rounds, and where it rounds only some kinds of products."""
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: False)
    owner: Any = th.Tensor if function == "matmul" else th
    name = "__matmul__" if function == "matmul" else function
    original = getattr(owner, name)

    def rounded(*tensors: th.Tensor) -> th.Tensor:
        if setting() == "bf16" and tensors[0].dtype == th.float32:
            tensors = tuple(tensor.bfloat16().float() for tensor in tensors)
        return original(*tensors)

    find_out = float32.onednn_is_exact.__wrapped__
    assert find_out() == (AUTO == "bf16")
    monkeypatch.setattr(owner, name, rounded)
    assert not find_out()


def test_finding_out_draws_no_random_number() -> None:
    before = th.get_rng_state()
    float32.onednn_is_exact.__wrapped__()
    assert th.equal(th.get_rng_state(), before)


def test_a_torch_without_the_setting_computes_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(th.backends.mkldnn), "matmul")
    for precision in ("auto", "medium"):
        assert make(float32_matmul_precision=precision).learn(24)._n_updates > 0
    monkeypatch.undo()


def test_no_onednn_computes_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.backends.mkldnn, "is_available", lambda: False)
    assert seen_while_training(make(float32_matmul_precision="medium")) == {"none"}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("chosen", ["tf32", "bf16", "ieee"])
def test_a_choice_of_the_user_stays(chosen: str) -> None:
    set_setting(chosen)
    try:
        # "ieee" asks for exact products, which these are
        assert seen_while_training(make()) == {"bf16" if chosen == "ieee" else chosen}
        assert setting() == chosen
        assert seen_while_training(make(float32_matmul_precision=None)) == {chosen}
        assert seen_while_training(make(float32_matmul_precision="medium")) == {"bf16"}
        assert setting() == chosen
    finally:
        set_setting("none")


@pytest.mark.usefixtures("exact")
def test_an_inherited_setting_is_inherited_again() -> None:
    th.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        with float32_matmul_precision():
            assert setting() == "bf16"
        assert setting() == "ieee"
    finally:
        th.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    assert setting() == "none"


@pytest.mark.usefixtures("exact")
def test_what_is_set_inside_stays() -> None:
    with float32_matmul_precision():
        set_setting("tf32")
    assert setting() == "tf32"
    set_setting("none")


@pytest.mark.usefixtures("exact")
def test_statements_in_threads_may_overlap_in_any_order() -> None:
    started, finish = threading.Event(), threading.Event()
    inside: list[str] = []

    def other() -> None:
        with float32_matmul_precision():
            started.set()
            finish.wait(10)
            inside.append(setting())

    thread = threading.Thread(target=other)
    with float32_matmul_precision():
        thread.start()
        assert started.wait(10)
    assert setting() == "bf16"  # the other one still needs it
    finish.set()
    thread.join()
    assert inside == ["bf16"]


@pytest.mark.usefixtures("exact")
def test_stock_algorithms_learn_with_it() -> None:
    seen: set[str] = set()
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, buffer_size=100, policy_kwargs=dict(net_arch=[8]))
    for module in model.critic.modules():
        module.register_forward_pre_hook(lambda *_: seen.add(setting()))
    with float32_matmul_precision():
        model.learn(14)
    assert seen == {"bf16"}


@pytest.mark.parametrize("value", ["highest", "bf16", True, 1])
def test_unknown_values_raise(value: Any) -> None:
    message = rf"precision={value!r} is not one of None, 'auto', 'medium'"
    with pytest.raises(ValueError, match=message), float32_matmul_precision(value):
        pass
    for cls in CLASSES:
        with pytest.raises(ValueError, match=f"float32_matmul_{message}"):
            make(cls, float32_matmul_precision=value)
    model = make()
    model.float32_matmul_precision = value
    with pytest.raises(ValueError, match=message):
        model.learn(1)

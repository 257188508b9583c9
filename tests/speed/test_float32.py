"""oneDNN for float32 products: on only where it is wanted and exact, and restored whatever happens."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch as th
from stable_baselines3 import SAC
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_ext import REDQSAC, DoubleDQN, float32_matmul_precision
from sb3_ext.redq_sac.update import REDQUpdate
from sb3_ext.speed import compilation, float32
from tests.support.models import CLASSES, make
from tests.support.states import assert_same_training

HAS_SETTING = float32._setting.exists()
needs_setting = pytest.mark.skipif(not HAS_SETTING, reason="this torch has no such setting")
#: The setting that ``"auto"`` makes on this processor
AUTO = "bf16" if float32.onednn_products() == "exact" else "none"


def setting() -> str:
    return th.backends.mkldnn.matmul.fp32_precision if HAS_SETTING else "none"  # type: ignore[attr-defined]


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
    """A processor on which oneDNN computes, and is exact."""
    if not HAS_SETTING:
        pytest.skip("this torch has no such setting")
    monkeypatch.setattr(float32, "onednn_products", lambda: "exact")


#: Where the functions are by which products are computed
OWNERS: dict[str, Any] = {"mm": th, "baddbmm": th, "__matmul__": th.Tensor}


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


class OtherOrder(TorchDispatchMode):
    """Products that differ in the last digit, as with another order of the sums: oneDNN may not compute them here."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (th.ops.aten.mm, th.ops.aten.addmm, th.ops.aten.bmm, th.ops.aten.baddbmm):
            result.mul_(1 + 2**-22)
        return result


@needs_setting
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("precision", ["auto", "medium", None])
def test_training_has_the_setting_and_restores_it(cls: Any, precision: Any) -> None:
    expected = {"auto": AUTO, "medium": "bf16", None: "none"}[precision]
    assert seen_while_training(make(cls, float32_matmul_precision=precision)) == {expected}


@pytest.mark.parametrize("cls", CLASSES)
def test_results_agree_within_rounding(cls: Any) -> None:
    def trained(precision: Any, context: Any) -> Any:
        # Layers wide enough for oneDNN, and few updates, because Adam makes much of the last digit
        model = make(cls, float32_matmul_precision=precision, policy_kwargs=dict(net_arch=[64, 64])).learn(20)
        model.set_random_seed(0)
        with context:
            model.train(4, batch_size=64)
        return model

    plain, auto, other = trained(None, nullcontext()), trained("auto", nullcontext()), trained(None, OtherOrder())
    assert_same_training(auto, plain)
    assert_same_training(other, plain)
    pairs = zip(other.policy.parameters(), plain.policy.parameters(), strict=True)
    assert not all(th.equal(one, another) for one, another in pairs)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("cls", CLASSES)
def test_an_exception_in_train_restores_the_setting(cls: Any) -> None:
    model, seen = make(cls).learn(22), []

    def fail(*args: Any) -> None:
        seen.append(setting())
        raise ZeroDivisionError

    network = model.critic if isinstance(model, REDQSAC) else model.q_net
    for module in network.modules():
        module.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model.train(2, batch_size=8)
    assert seen == ["bf16"]


@pytest.mark.usefixtures("exact")
def test_models_with_different_settings_take_turns() -> None:
    models = [make(cls, float32_matmul_precision=choice) for cls in (REDQSAC, DoubleDQN) for choice in ("auto", None)]
    for _ in range(2):
        assert [seen_while_training(model) for model in models] == [{"bf16"}, {"none"}] * 2
    models[0].float32_matmul_precision = None
    assert seen_while_training(models[0]) == {"none"}


@needs_setting
def test_importing_sets_nothing() -> None:
    program = "import sb3_ext, torch as th; print(th.backends.mkldnn.matmul.fp32_precision)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "none"


@needs_setting
def test_a_processor_with_amx_keeps_the_default_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(float32, "onednn_products", find_out := float32.onednn_products.__wrapped__)
    assert find_out() == "rounded"
    assert seen_while_training(make()) == {"none"}
    assert seen_while_training(make(float32_matmul_precision="medium")) == {"bf16"}
    # Not even after a statement that asked for it, which has ended meanwhile
    asked, not_asked = float32_matmul_precision("medium"), float32_matmul_precision("auto")
    asked.__enter__()
    not_asked.__enter__()
    asked.__exit__(None, None, None)
    assert setting() == "none"
    not_asked.__exit__(None, None, None)


@needs_setting
@pytest.mark.parametrize("function", ["mm", "baddbmm", "__matmul__"])
@pytest.mark.parametrize(("change", "expected"), [("order", "exact"), ("round", "rounded"), ("nothing", "unused")])
def test_what_onednn_does_is_found_out(
    function: str, change: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing says that the processor rounds, and where oneDNN computes only some kinds of products."""
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: False)
    original = {name: getattr(owner, name) for name, owner in OWNERS.items()}

    def pretended(name: str, *tensors: th.Tensor) -> th.Tensor:
        if tensors[0].dtype != th.float32 or setting() != "bf16" or name != function or change == "nothing":
            with float32._setting.temporarily("ieee"):
                return original[name](*tensors)
        if change == "order":
            return original[name](*(tensor.double() for tensor in tensors)).float()
        return original[name](*(tensor.bfloat16().float() for tensor in tensors))

    for name, owner in OWNERS.items():
        monkeypatch.setattr(owner, name, lambda *tensors, name=name: pretended(name, *tensors))
    assert float32.onednn_products.__wrapped__() == expected
    set_setting("bf16")  # what the user has chosen makes no difference
    try:
        assert float32.onednn_products.__wrapped__() == expected
    finally:
        set_setting("none")


def test_finding_out_draws_no_random_number() -> None:
    before = th.get_rng_state()
    float32.onednn_products.__wrapped__()
    assert th.equal(th.get_rng_state(), before)


def test_a_torch_without_the_setting_computes_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    if HAS_SETTING:
        monkeypatch.delattr(type(th.backends.mkldnn), "matmul")
    assert float32.onednn_products.__wrapped__() == "unused"
    for precision in ("auto", "medium"):
        assert make(float32_matmul_precision=precision).learn(24)._n_updates > 0
    monkeypatch.undo()


@pytest.mark.usefixtures("exact")
def test_autotuning_compilers_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask for the precision through torch's old interface, which raises while the new one is in use."""
    models = [make(compile=compile) for compile in (True, False)]
    monkeypatch.setattr(float32, "autotunes", lambda: True)
    seen: list[str] = []
    monkeypatch.setattr(REDQUpdate, "run", lambda *args: seen.append(setting()) or 1 / 0)
    for model in models:
        with pytest.raises(ZeroDivisionError):
            model.learn(22)
    assert seen == ["none", "bf16"]


@pytest.mark.parametrize("option", ["max_autotune", "max_autotune_gemm"])
def test_autotuning_is_found_out(option: str) -> None:
    from torch._inductor import config

    assert not compilation.autotunes()
    with config.patch({option: True}):
        assert compilation.autotunes()
    assert not compilation.autotunes()


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
        with float32_matmul_precision():
            assert setting() == "tf32"
        with float32_matmul_precision("medium"):
            assert setting() == "bf16"
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
    with pytest.raises(ValueError, match=message):
        float32_matmul_precision(value)
    for cls in CLASSES:
        with pytest.raises(ValueError, match=f"float32_matmul_{message}"):
            make(cls, float32_matmul_precision=value)
    model = make()
    model.float32_matmul_precision = value
    for work in (model.learn, model.train):
        with pytest.raises(ValueError, match=f"float32_matmul_{message}"):
            work(1)

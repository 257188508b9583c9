"""In which precision networks run, where the processor is asked."""

from collections.abc import Iterator

import pytest
import torch as th

from sb3_ext.speed.precision import autocast_dtype_on, cpu_capability, cpu_computes_in_bfloat16


@pytest.fixture
def asked_anew() -> Iterator[None]:
    cpu_computes_in_bfloat16.cache_clear()
    yield
    cpu_computes_in_bfloat16.cache_clear()


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_auto_asks_the_processor(avx: bool, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: amx)
    assert autocast_dtype_on("auto", "cpu") == (th.bfloat16 if avx or amx else None)
    assert autocast_dtype_on("bfloat16", "cpu") == th.bfloat16
    assert autocast_dtype_on(None, "cpu") is None
    assert autocast_dtype_on("auto", "cuda") is None
    monkeypatch.setattr(th.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    assert cpu_capability() == ("NO-AVX+BF16" if avx or amx else "NO-AVX")


@pytest.mark.usefixtures("asked_anew")
def test_a_torch_that_does_not_look_at_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(th.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(th.cpu, "_is_amx_tile_supported")
    assert autocast_dtype_on("auto", "cpu") is None

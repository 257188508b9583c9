"""Freed memory stays with the process: counted in page faults, in processes of their own."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sb3_ext.speed.allocator import SWITCH, keep_freed_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

PAGE_FAULTS = """
import resource, sys
import torch as th
from stable_baselines3 import SAC
import sb3_ext

settings = dict(buffer_size=100, learning_starts=2, device="cpu", policy_kwargs=dict(net_arch=[4]))
model = (sb3_ext.REDQSAC if sys.argv[1] == "ours" else SAC)("MlpPolicy", "Pendulum-v1", **settings).learn(5)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def some_tensors():
    # 4 MiB each: together more than glibc leaves at the end of the heap
    tensors = [th.ones(2**20) for _ in range(8)]

for _ in range(3):
    some_tensors()
before = faults()
for _ in range(10):
    some_tensors()
print(faults() - before)
"""


def page_faults(whose: str, **variables: str) -> int:
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PAGE_FAULTS, whose],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(result.stdout)


@needs_glibc
def test_memory_is_kept_from_one_update_to_the_next() -> None:
    n_pages = 10 * 8 * 4 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    # Where the last block on the heap happens to be in use, nothing before it is given back: one run in six
    without = next(filter(None, (page_faults("SB3's") for _ in range(6))), 0)
    if without == 0:
        pytest.skip("this system does not count page faults")
    # With huge pages there may be fewer faults than pages
    assert without > n_pages / 600
    assert page_faults("ours") < min(without / 10, n_pages / 100)
    # Whoever has settings of their own keeps them
    assert any(page_faults("ours", MALLOC_TRIM_THRESHOLD_="131072") > without / 2 for _ in range(6))


@pytest.fixture
def asked_anew() -> Iterator[None]:
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


@needs_glibc
@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(variable)
    assert keep_freed_memory()
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory(), "asked once a process"
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()


@needs_glibc
@pytest.mark.usefixtures("asked_anew")
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert not keep_freed_memory()

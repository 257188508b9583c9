"""
Run Stable-Baselines3's own tests with our classes in the place of their parents.

    python tests/sb3_suite.py               # or: make test-sb3
    python tests/sb3_suite.py IQN           # one of them
    python tests/sb3_suite.py IQN run       # one of them, and of the tests only those in test_run.py
    python tests/sb3_suite.py IQN-noisy run # with one of its parts switched on

The tests come from the source distribution of the installed SB3, downloaded by pip into a temporary folder; nothing of
them is kept. Only those that concern the parent are run. It takes more than half an hour, most of it for REDQSAC,
which makes 20 updates of 10 critics where SAC makes one of 2, and downloads, so it is no part of ``make test``.

This file is the script and, for the pytest that it starts, the plugin that does the substitution.
"""

import inspect
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3

import sb3_ext

# Our class -> the name of its parent, and the files of tests that concern it
SAC_TESTS = "run save_load deterministic cnn dict_env n_step_replay sde predict train_eval_mode"
DQN_TESTS = (
    "run save_load deterministic cnn dict_env n_step_replay predict train_eval_mode "
    "identity callbacks logger her custom_policy spaces utils"
)
SUBSTITUTES = {
    "REDQSAC": ("SAC", SAC_TESTS),
    "DoubleDQN": ("DQN", DQN_TESTS),
    "SoftDQN": ("DQN", DQN_TESTS),
    "IQN": ("DQN", DQN_TESTS),
}
# Defaults of the constructor that switch a part on, by "<class>-<part>"
PARTS: dict[str, dict[str, Any]] = {
    "DoubleDQN-c51": dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=100.0))),
    "DoubleDQN-dueling": dict(policy_kwargs=dict(dueling=True)),
    "DoubleDQN-noisy": dict(policy_kwargs=dict(noisy="with_epsilon")),
    "DoubleDQN-normalization": dict(policy_kwargs=dict(normalization="layer")),
    "DoubleDQN-prioritized": dict(replay_buffer_class=sb3_ext.PrioritizedReplayBuffer),
    "SoftDQN-munchausen": dict(munchausen_coef=0.9, double_q=False),
    "IQN-dueling": dict(policy_kwargs=dict(dueling=True)),
    "IQN-munchausen": dict(munchausen_coef=0.9),
    "IQN-noisy": dict(policy_kwargs=dict(noisy="with_epsilon")),
}
# What fails by design, with the reason: class, file and test
EXPECTED_FAILURES = {
    **{
        (ours, "test_cnn", "test_image_like_input[True"): "wants an AssertionError where images are normalized twice; "
        "ours is a ValueError that says what to write"
        for ours in SUBSTITUTES
    },
    **{
        (part, "test_callbacks", "test_eval_success_logging"): "wants most of five goals reached after 100 updates; "
        "with one seed another network may miss them"
        for part in PARTS
    },
    ("DoubleDQN-prioritized", "test_save_load", "test_warn_buffer[True"): "wants optimize_memory_usage of SB3's buffer",
    ("DoubleDQN-prioritized", "test_n_step_replay", "test_run["): "wants SB3's buffer of n-step returns",
    ("REDQSAC", "test_cnn", "test_features_extractor_target_net[True"): "a shared extractor learns when the actor "
    "does, every 20 critic updates by default, and the test makes one; with policy_delay=1 it passes",
    (
        "REDQSAC",
        "test_n_step_replay",
        "test_n_steps_warns_with_custom_replay_buffer_class[NStep",
    ): "SB3 ignores n_steps where a replay_buffer_class is given, and says so; ours hands it to classes that know it",
    ("REDQSAC", "test_n_step_replay", "test_n_steps_custom_class_no_warnings"): "SB3 takes n_steps and gamma in "
    "replay_buffer_kwargs, beside another gamma of the algorithm; ours wants them in one place, the algorithm",
    **{
        (ours, "test_callbacks", "test_eval_callback_logs_are_written_with_the_correct_timestep"): "the test reads the "
        "folder DQN_1, and our runs are logged under the name of their class"
        for ours in ("DoubleDQN", "SoftDQN", "IQN")
    },
    **{
        (ours, "test_her", "test_performance_her"): "wants a success rate of 0.9 after 1500 steps of one seed, for "
        "which SB3's own DQN has 0.98, 0.62, 0.24 and 0.72 with seeds 0 to 3; " + reason
        for ours, reason in (
            ("DoubleDQN", "double Q-learning is slower there: 0.44, 0.34, 0.64, 0.44"),
            ("SoftDQN", "a temperature that begins at 1 is too hot for rewards of -1 and 0"),
            ("IQN", "it needs more updates there: 0.1 with seed 0"),
        )
    },
}
NAME = os.environ.get("SB3_SUITE_CLASS", "REDQSAC")
OURS = NAME.partition("-")[0]
PARENT, _ = SUBSTITUTES[OURS]
REAL_PARENT = getattr(stable_baselines3, PARENT)


def with_part(cls: type, defaults: Mapping[str, Any]) -> type:
    """
    :param defaults: arguments of the constructor. A test's own ones win; ``policy_kwargs`` are merged key by key
    :return: a subclass of the same name that has them
    """

    class Substitute(cls):  # type: ignore[misc]
        def __init__(self, *args: Any, policy_kwargs: dict[str, Any] | None = None, **kwargs: Any):
            policy_kwargs = {**defaults.get("policy_kwargs", {}), **(policy_kwargs or {})}
            super().__init__(*args, **{**defaults, **kwargs, "policy_kwargs": policy_kwargs})

    Substitute.__name__ = cls.__name__
    return Substitute


def pytest_configure(config: pytest.Config) -> None:
    """
    Substitute before any test module is imported.
    """
    ours = getattr(sb3_ext, OURS)
    if NAME in PARTS:
        ours = with_part(ours, PARTS[NAME])
    for module in (stable_baselines3, getattr(stable_baselines3, PARENT.lower())):
        setattr(module, PARENT, ours)


def _concerns_parent(item: Any) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    classes = [value for value in parameters if inspect.isclass(value) and hasattr(value, "learn")]
    if classes:
        return any(issubclass(cls, REAL_PARENT) for cls in classes)
    return re.search(rf"\b{PARENT}\b", inspect.getsource(item.function)) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Keep what concerns the parent, and mark what is known to fail.

    :param config: pytest's
    :param items: the tests found
    """
    config.hook.pytest_deselected(items=[item for item in items if not _concerns_parent(item)])
    items[:] = [item for item in items if _concerns_parent(item)]
    for item in items:
        for (ours, file, name), reason in EXPECTED_FAILURES.items():
            if ours in (OURS, NAME) and item.name.startswith(name) and file in item.nodeid:
                # With a part switched on, what is learned is another matter
                item.add_marker(pytest.mark.xfail(reason=reason, strict=NAME == OURS))


def main() -> int:
    known = (*SUBSTITUTES, *PARTS)
    if sys.argv[1:] and sys.argv[1] not in known:
        sys.exit(f"{sys.argv[1]} is not one of {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        requirement = f"stable-baselines3=={metadata.version('stable-baselines3')}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", requirement]
        subprocess.run([*command, "--dest", folder], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (tests,) = Path(folder).glob("*/tests")
        arguments = ["-p", "sb3_suite", "-c", os.devnull, "--rootdir", folder, "-o", "markers=expensive: slow", "-rxXf"]
        worst = 0
        for ours in sys.argv[1:2] or known:
            parent, names = SUBSTITUTES[ours.partition("-")[0]]
            files = [tests / f"test_{name}.py" for name in sys.argv[2:] or names.split()]
            print(f"{ours} in the place of {parent}", flush=True)
            result = subprocess.run(
                [sys.executable, "-m", "pytest", *arguments, *(str(file) for file in files if file.exists())],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SB3_SUITE_CLASS": ours},
                check=False,
            )
            worst = max(worst, result.returncode)
        return worst


if __name__ == "__main__":
    sys.exit(main())

"""
The commands of the README and of every page run as they stand, but with few steps.

They run one after the other in one process and one folder, since every start of rl_zoo3 takes seconds, and a command
may need what an earlier one left: a model to play, or to continue.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.pages import README_AND_PAGES, REPOSITORY, code_blocks

# What other tests run, what needs the network or another machine, and what belongs to other projects
ELSEWHERE = ("make ", "pip install ", "git clone ", "tensorboard ", "optuna-dashboard ", "cd ")
# In this order: what is played was trained before
OF_MODULES = ("rl_zoo3.train", "sb3_ext.zoo", "rl_zoo3.enjoy")
# With other arguments, since they need a screen, or hours
IN_OTHER_TESTS = ("rl_zoo3.record_video", "sb3_ext.experiments")
SHORT_TRAINING = ("-n", "40", "--eval-freq", "20", "--eval-episodes", "1", "--n-eval-envs", "1", "--seed", "0")
SHORT_STUDY = ("-n", "60", "--n-trials", "1", "--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots")

RUNNER = """
import json, runpy, sys, traceback
failures = {}
for text, module, arguments in json.load(sys.stdin):
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as exit:
        if exit.code not in (None, 0):
            failures[text] = f"exit status {exit.code}"
    except BaseException:
        failures[text] = traceback.format_exc()
with open("failures.json", "w") as file:
    json.dump(failures, file)
"""


def commands() -> dict[str, list[str]]:
    """
    :return: text of each command, without comments -> its words, in the order of the pages
    """
    found = {}
    for page in README_AND_PAGES:
        for block in code_blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found[" ".join(words)] = words
    return found


def module_of(words: list[str]) -> str | None:
    """
    :param words: of a command
    :return: the module that it runs with ``python -m``
    """
    return words[words.index("-m") + 1] if "-m" in words else None


def shortened(module: str, arguments: list[str]) -> list[str]:
    """
    :param arguments: of rl_zoo3
    :return: the same with few steps and without a window. The last value of an argument counts
    """
    if module == "rl_zoo3.enjoy":
        return [*arguments, "-n", "20", "--no-render", "--exp-id", "1"]  # the latest may be a study
    return [*arguments, *(SHORT_STUDY if "-optimize" in arguments else SHORT_TRAINING)]


def is_possible(words: list[str]) -> bool:
    """Tell whether the packages of an environment are here."""
    env = words[words.index("--env") + 1]
    needed = {"LunarLander": "Box2D", "Fetch": "gymnasium_robotics", "ALE/": "ale_py", "NoFrameskip": "ale_py"}
    return all(importlib.util.find_spec(package) for part, package in needed.items() if part in env)


def test_every_command_is_of_a_known_kind() -> None:
    unknown = []
    for text, words in commands().items():
        module = module_of(words)
        is_script = len(words) > 1 and words[0] == "python" and words[1].endswith(".py")
        if not (text.startswith(ELSEWHERE) or module in (*OF_MODULES, *IN_OTHER_TESTS) or is_script):
            unknown.append(text)
    assert unknown == []


def test_scripts_and_files_of_experiments_are_there() -> None:
    named = [word for words in commands().values() for word in words if word.endswith((".py", ".yml"))]
    assert len(named) >= 10
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_scripts_have_the_options() -> None:
    options: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for words in commands().values():
        if words[0] == "python" and words[1:] and words[1].endswith(".py"):
            has_subcommand = len(words) > 2 and not words[2].startswith("-")
            named = {word for word in words if word.startswith("--")}
            options[tuple(words[1 : 3 if has_subcommand else 2])] |= named
    assert len(options) >= 5
    for (script, *subcommand), named in options.items():
        command = [sys.executable, str(REPOSITORY / script), *subcommand, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
        assert named <= set(re.findall(r"--[\w-]+", shown)), script


@pytest.mark.slow
def test_they_run(tmp_path: Path) -> None:
    for name in ("hyperparams", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    runs = []
    for text, words in commands().items():
        module = module_of(words)
        if module in OF_MODULES and is_possible(words):
            runs.append((text, module, shortened(module, words[words.index("-m") + 2 :])))
    runs.sort(key=lambda run: OF_MODULES.index(run[1]))
    assert len(runs) >= 30
    result = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(runs),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (tmp_path / "failures.json").exists(), result.stderr[-3000:]
    failures = json.loads((tmp_path / "failures.json").read_text())
    assert failures == {}, "\n".join(f"{text}\n{error}" for text, error in failures.items())


@pytest.mark.parametrize("text", ["python -m rl_zoo3.train --algo redq_sac --env Hopper-v4 -n 5"])
def test_the_last_number_of_steps_counts(text: str) -> None:
    assert shortened("rl_zoo3.train", text.split()[3:])[-10:-8] == ["-n", "40"]

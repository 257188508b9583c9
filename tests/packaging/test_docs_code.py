"""The Python code of the README and of every page runs by itself as it stands, but for the length of trainings."""

import re
from pathlib import Path

import pytest
import torch as th

from tests.support.pages import README_AND_PAGES, REPOSITORY, code_blocks

MAX_STEPS = 1000
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(REPOSITORY).as_posix()}-{index}")
    for page in README_AND_PAGES
    for index, block in enumerate(code_blocks(page, "python"))
]


def shortened(block: str) -> str:
    """
    :param block: Python code
    :return: the same, with few steps of each training, of which some are learned from
    """
    # Their updates take long: SAC and REDQSAC have large networks, and CEMQ values dozens of actions for each row
    limit = 120 if re.search(r"\b(SAC|REDQSAC|CEMQ)\(", block) else MAX_STEPS

    def call(match: re.Match[str]) -> str:
        return f".learn({match[1]}{min(int(match[2]), limit)}"

    short = re.sub(r"\.learn\((\s*)([\d_]+)", call, block)
    if "compile=True" in short:  # which takes a minute
        return short
    return re.sub(r"learning_starts=(\d+)", lambda match: f"learning_starts={min(int(match[1]), 100)}", short)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 40


@pytest.mark.parametrize("block", BLOCKS)
def test_it_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    short = shortened(block)
    exec(compile(short, "example", "exec"), names)
    # Where it trains a model, the model is one that can go on
    model = names.get("model")
    if model is not None and ".learn(" in block:
        assert model.num_timesteps > 0
        assert model._n_updates > 0 or "compile=True" in block
        assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())

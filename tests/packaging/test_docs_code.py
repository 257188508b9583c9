"""The Python code of pages that show how to extend or deploy something runs as it stands."""

import re
from pathlib import Path

import pytest
import torch as th

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = (
    "api/algorithms.md",
    "api/networks.md",
    "architecture.md",
    "coming_from_sb3.md",
    "deploy.md",
    "process_effects.md",
    "recipes.md",
    "saving.md",
)
BLOCKS = [
    pytest.param(block, id=f"{page}-{index}")
    for page in PAGES
    for index, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    )
]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 12


@pytest.mark.parametrize("block", BLOCKS)
def test_it_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(block, "example", "exec"), names)
    # Where it trains a model, the model is one that can go on
    model = names.get("model")
    if model is not None and ".learn(" in block:
        assert model.num_timesteps > 0 and model._n_updates > 0
        assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())


@pytest.mark.parametrize("block", BLOCKS)
def test_lines_are_readable_on_a_page(block: str) -> None:
    assert max(len(line) for line in block.splitlines()) <= 76

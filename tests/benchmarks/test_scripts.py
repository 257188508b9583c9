"""The scripts behind the committed figures."""

import csv
import importlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from sb3_ext.speed.precision import cpu_capability

REPOSITORY = Path(__file__).parents[2]
LEARNING_CURVES = REPOSITORY / "benchmarks" / "learning_curves.py"


def run(*arguments: object, cwd: Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fake_run(folder: Path, variant: str, seed: int, scale: float) -> Path:
    """What rl_zoo3 leaves of a run, as far as the script reads it."""
    run_folder = folder / f"{variant}_{seed}" / "redq_sac" / "Hopper-v4_1"
    parameters = run_folder / "Hopper-v4"
    parameters.mkdir(parents=True)
    # The layout in which PyYAML writes an OrderedDict
    pairs = [["log_folder", f"logs/{variant}_{seed}"], ["seed", seed]]
    header = "!!python/object/apply:collections.OrderedDict\n"
    (parameters / "args.yml").write_text(header + yaml.safe_dump([pairs]))
    # rl_zoo3 joins the arguments as the process got them: the shell's quotes are gone
    (parameters / "command.txt").write_text(f"/some/where/python -m rl_zoo3.train --seed {seed} -params a:'b'")
    results = scale * np.arange(6.0).reshape(3, 2)
    np.savez(run_folder / "evaluations.npz", timesteps=np.array([10, 20, 30]), results=results)
    return run_folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_runs_are_collected_and_drawn(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path, variant, seed, seed) for variant in ("hopper_redq", "hopper_sac") for seed in (1, 2)]
    results = tmp_path / "results"
    run(LEARNING_CURVES, "collect", *folders[:2], "--output", results, cwd=tmp_path)
    run(LEARNING_CURVES, "collect", *folders[1:], "--output", results, cwd=tmp_path)

    rows = read(results / "returns.csv")
    assert len(rows) == 4 * 6  # the run that was given twice is there once
    second = [row for row in rows if (row["variant"], row["seed"]) == ("hopper_redq", "2")]
    assert [(int(row["timesteps"]), float(row["return"])) for row in second] == [
        (10, 0.0), (10, 2.0), (20, 4.0), (20, 6.0), (30, 8.0), (30, 10.0)
    ]  # fmt: skip
    runs = read(results / "runs.csv")
    # As one has to type it: the quotes within a parameter survive the shell
    assert shlex.split(runs[0]["command"]) == ["python", "-m", "rl_zoo3.train", "--seed", "1", "-params", "a:'b'"]
    assert "torch=" in runs[0]["versions"] and f" cpu={cpu_capability()} " in runs[0]["versions"]

    run(LEARNING_CURVES, "plot", results, "--figure", "figure.png", cwd=tmp_path)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_minutes_are_those_of_the_monitor_file(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "hopper_redq", 1, 1.0)
    # Four episodes of one step in the first minute, and two of 12 and 9, which end after 2 and 3 minutes
    episodes = [(1, 15), (1, 30), (1, 45), (1, 60), (12, 120), (9, 180)]
    lines = "".join(f"1.0,{length},{seconds}\n" for length, seconds in episodes)
    (folder / "0.monitor.csv").write_text(f'#{{"t_start": 0.0}}\nr,l,t\n{lines}')
    run(LEARNING_CURVES, "collect", folder, "--output", tmp_path / "results", cwd=tmp_path)
    minutes = [(int(row["timesteps"]), float(row["minutes"])) for row in read(tmp_path / "results" / "minutes.csv")]
    # The last one as if the run had gone on as from step 4 to 25, in which the middle lies
    expected = [1.5, 2 + 4 / 9, 3 + 5 * 2 / 21]
    assert minutes == [
        (step, pytest.approx(value, abs=0.01)) for step, value in zip((10, 20, 30), expected, strict=True)
    ]
    run(LEARNING_CURVES, "plot", tmp_path / "results", "--figure", "figure.png", "--minutes", cwd=tmp_path)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def write_returns(folder: Path, variants: dict[str, str], n_seeds: int = 2) -> None:
    """
    :param variants: the names, one letter each, of every environment
    """
    lines = ["env,variant,seed,timesteps,episode,return"]
    for env, names in variants.items():
        lines += [f"{env},{name},{s},{step},0,{step}" for name in names for s in range(n_seeds) for step in (10, 20)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "returns.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def learning_curves(load_script: Callable[[str], ModuleType]) -> Any:
    return load_script("learning_curves")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    figures: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **kwargs: figures.append(figure))
    return figures


def test_all_is_drawn_with_one_style_and_one_legend_entry_each(
    tmp_path: Path, learning_curves: Any, drawn: list[Any]
) -> None:
    variants = {"Ant-v4": "c", "Hopper-v4": "b", "Swimmer-v4": "a", "Walker2d-v4": "b", "Reacher-v4": "ab"}
    write_returns(tmp_path, variants)
    (tmp_path / "published.csv").write_text(
        "env,algo,steps,mean\nHopper-v4,sac,10,5\nAnt-v4,redq,10,5\nAnt-v4,sac,10,5\n"
    )
    learning_curves.plot(tmp_path, tmp_path / "figure.png")

    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes] == sorted(variants)
    assert [axis.get_subplotspec().rowspan.start for axis in figure.axes] == [0, 0, 1, 1, 2]
    (legend,) = figure.legends
    entries = ["a (2 seeds)", "b (2 seeds)", "c (2 seeds)", "redq, published", "sac, published"]
    assert [text.get_text() for text in legend.get_texts()] == entries
    styles: dict[str, set[tuple[str, str, str]]] = {entry: set() for entry in entries}
    for axis in figure.axes:
        for line in axis.lines:
            if line.get_label() in styles:
                styles[line.get_label()].add((line.get_color(), line.get_linestyle(), line.get_marker()))
    assert [len(found) for found in styles.values()] == [1] * 5
    assert len(set.union(*styles.values())) == 5
    drawn_in = [axis.get_title() for axis in figure.axes if "a (2 seeds)" in [line.get_label() for line in axis.lines]]
    assert drawn_in == ["Reacher-v4", "Swimmer-v4"]


def test_a_file_says_which_lines_and_panels_there_are(tmp_path: Path, learning_curves: Any, drawn: list[Any]) -> None:
    results = tmp_path / "results" / "runs"
    write_returns(results, {"Hopper-v4": "abd", "Ant-v4": "bc", "Reacher-v4": "a"})
    (results / "published.csv").write_text("env,algo,steps,mean\nHopper-v4,sac,10,5\nHopper-v4,redq,10,5\n")
    figures = tmp_path / "figures"
    figures.mkdir()
    settings = {
        "results": "runs",
        "envs": ["Hopper-v4", "Ant-v4"],
        "lines": {"ours": ["b"], "stock": ["a", "c"]},
        "published": {"SAC": "sac"},
    }
    description = figures / "figures.yml"
    description.write_text(yaml.safe_dump({"one.svg": settings}))
    learning_curves.draw(description)
    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes] == ["Hopper-v4", "Ant-v4"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours (2 seeds)", "stock (2 seeds)", "SAC, published"]

    for change, message in (
        ({"envs": ["Walker2d-v4"]}, r"has no runs in \['Walker2d-v4'\]"),
        ({"lines": {"ours": ["a", "b"]}}, r"'ours' has more than one variant in Hopper-v4: \['a', 'b'\]"),
        ({"lines": {"ours": ["b", "e"]}}, r"without runs \['e'\]"),
        ({"lines": {"ours": ["b"], "same": ["b"]}}, r"in two lines \['b'\]"),
        ({"published": {"TD3": "td3"}}, r"has no \['td3'\]"),
        ({"lines": {str(n): ["a"] for n in range(6)}, "published": {}}, "at most 4 panels and 5 lines"),
        ({"envs": list("abcde")}, "at most 4 panels and 5 lines"),
        ({"line": {}}, r"one.svg: \['line'\] are no settings"),
    ):
        description.write_text(yaml.safe_dump({"one.svg": settings | change}))
        with pytest.raises(ValueError, match=message):
            learning_curves.draw(description)


def test_the_figures_of_the_pages_can_be_drawn(tmp_path: Path, learning_curves: Any, drawn: list[Any]) -> None:
    description = REPOSITORY / "docs" / "figures" / "figures.yml"
    # Not in the repository, whose files `drawn` would leave empty
    (tmp_path / "figures").mkdir()
    copied = shutil.copy(description, tmp_path / "figures")
    (tmp_path / "results").symlink_to(REPOSITORY / "docs" / "results")
    learning_curves.draw(Path(copied))
    names = yaml.safe_load(description.read_text())
    assert len(drawn) == len(names) and all((description.parent / name).is_file() for name in names)


def test_training_returns_are_collected_and_drawn(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, "boxing_iqn", 1, 1.0)
    for index in range(2):
        episodes = "\n".join(f"{index + episode},400,{episode}.5" for episode in range(3))
        (folder / f"{index}.monitor.csv").write_text(f'#{{"t_start": 0.0}}\nr,l,t\n{episodes}\n')
    run(LEARNING_CURVES, "collect", folder, "--output", tmp_path / "results", "--training", cwd=tmp_path)
    rows = [(int(row["timesteps"]), float(row["return"])) for row in read(tmp_path / "results" / "returns.csv")]
    # 400 frames are 100 steps of one environment, and as many of the other meanwhile
    assert rows == [(200, 0.0), (200, 1.0), (400, 1.0), (400, 2.0), (600, 2.0), (600, 3.0)]
    run(LEARNING_CURVES, "plot", tmp_path / "results", "--figure", "figure.png", "--bin", 300, cwd=tmp_path)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_start_up_is_measured(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "start_up.py"
    small = ("--repeats", 1, "--threads", 1, "--contestants", "SB3 SAC", "REDQSAC")
    output = run(script, "--output", "raw.csv", *small, cwd=tmp_path)
    assert "| REDQSAC |" in output
    rows = list(csv.DictReader((tmp_path / "raw.csv").read_text().splitlines()[2:]))
    assert [row["contestant"] for row in rows] == ["SB3 SAC", "REDQSAC"]
    assert all(float(row["peak_memory_mb"]) > 50 and float(row["import_s"]) > 0 for row in rows)


def test_frames_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    script = REPOSITORY / "benchmarks" / "atari_frames.py"
    run(script, "--output", "out/raw.csv", "--games", "MsPacman", "--steps", 40, cwd=tmp_path)
    comments = (tmp_path / "out" / "raw.csv").read_text().splitlines()[:2]
    assert comments[0].startswith("# Python") and comments[1].startswith("# python benchmarks/atari_frames.py")
    lines = [line for line in (tmp_path / "out" / "raw.csv").read_text().splitlines() if not line.startswith("#")]
    exact, other = csv.DictReader(lines)
    assert (exact["frames"], exact["equal"], exact["same_rewards_and_dones"]) == ("41", "41", "40")
    assert int(other["equal"]) < 41  # its ghosts flicker


def test_costs_of_candidates_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    candidates = importlib.import_module("candidates")
    for name, value in (("STORED", 20), ("N_SAMPLES", (8,)), ("N_ACTIONS", 2), ("N_UPDATES", 1)):
        monkeypatch.setattr(candidates, name, value)
    output = tmp_path / "candidates.csv"
    monkeypatch.setattr(sys, "argv", ["candidates.py", "--output", str(output), "--repeats", "2"])
    candidates.main()
    rows = importlib.import_module("reporting").read_csv(output)
    settings = ["NAF", "CEMQ, random, 8", "CEMQ, cem, 8", "CEMQ, cma, 8"]
    assert [row["setting"] for row in rows] == 2 * settings
    assert all(float(row["action_ms"]) > 0 and float(row["update_ms"]) > 0 for row in rows)


def test_scaling_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    scaling = importlib.import_module("scaling")
    varied = {"n_critics": (2, 3), "gradient_steps": (1, 2), "batch_size": (8,), "width": (8, 16)}
    monkeypatch.setattr(scaling, "VARIED", varied)
    monkeypatch.setattr(scaling, "DEFAULTS", {"n_critics": 2, "gradient_steps": 1, "batch_size": 8, "width": 8})
    monkeypatch.setattr(scaling, "STORED", 20)
    output, figure = tmp_path / "scaling.csv", tmp_path / "scaling.png"
    arguments = ["scaling.py", "--output", str(output), "--figure", str(figure), "--dimensions", "hopper"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--repeats", "2"])
    scaling.main()
    rows = scaling.read_csv(output)
    cases = [(name, str(value)) for name, values in varied.items() for value in values]
    assert [(row["varied"], row["value"]) for row in rows] == [case for case in cases for _ in range(2)]
    assert all(float(row[column]) > 0 for row in rows for column in ("step_ms", "roofline_ms"))
    drawn = figure.read_bytes()
    figure.unlink()
    monkeypatch.setattr(sys, "argv", [*arguments, "--plot-only"])
    scaling.main()
    assert figure.read_bytes() == drawn

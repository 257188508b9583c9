"""From evaluations to scores, statistics and files: hand-worked numbers and plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_ext.experiments import figures, load_experiment, results
from sb3_ext.experiments.results import Curve
from sb3_ext.experiments.runs import RunFolder


def curve(environment: str, variant: str, seed: int, *returns: float) -> Curve:
    return Curve(environment, variant, seed, 10 * np.arange(1, len(returns) + 1), np.array(returns))


# Two environments, two complete variants, one that lacks a run
CURVES = [
    curve("a", "one", 1, 0, 0, 10),
    curve("a", "one", 2, 0, 0, 20),
    curve("a", "one", 3, 0, 0, 30),
    curve("b", "one", 1, 0, 0, -1),
    curve("b", "one", 2, 0, 0, -2),
    curve("b", "one", 3, 0, 0, -5),
    curve("a", "two", 1, 0, 0, 15),
    curve("a", "two", 2, 0, 0, 25),
    curve("b", "two", 1, 0, 0, -4),
    curve("b", "two", 2, 0, 0, -3),
    curve("a", "three", 1, 0, 0, 50),
]
LOOKS = figures.styles(["one", "two", "three"])


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """As good for these tests as 2000, in less time."""
    monkeypatch.setattr(results, "N_BOOTSTRAP", 500)


def test_the_score_is_the_mean_over_the_last_tenth():
    assert curve("a", "one", 1, *range(20)).score == 18.5
    assert curve("a", "one", 1, *range(9)).score == 8.0
    assert curve("a", "one", 1, 3.0).score == 3.0


def test_scores_of_several_environments_are_put_together_by_their_ranges():
    matrices = results.score_matrices(results.scores(CURVES), {"a": (0.0, 100.0)})
    assert list(matrices) == ["one", "two"]  # "three" has no runs in b
    # b's range is that of all runs: -5 to -1
    np.testing.assert_allclose(matrices["one"], [[0.1, 1.0], [0.2, 0.75], [0.3, 0.0]])
    np.testing.assert_allclose(matrices["two"], [[0.15, 0.25], [0.25, 0.5]])
    # a's, without being told, is 10 to 50
    np.testing.assert_allclose(results.score_matrices(results.scores(CURVES), {})["two"][:, 0], [0.125, 0.375])
    same = [curve("a", "one", 1, 7), curve("a", "two", 1, 7)]
    assert results.score_matrices(results.scores(same), {})["one"].tolist() == [[0.0]]


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    values = np.array(
        [[1.0, 8.0], [2.0, 7.0], [3.0, 100.0], [4.0, 5.0], [50.0, 5.0], [-9.0, 4.0], [2.5, 3.0], [3.5, -80.0]]
    )
    # Sorted: -9 1 | 2 2.5 3 3.5 | 4 50, and -80 3 | 4 5 5 7 | 8 100
    middle, (low, high) = results.iqm_with_interval(values)
    np.testing.assert_allclose(middle, [2.75, 5.25])
    assert (low <= middle).all() and (middle <= high).all() and (low < high).all()
    np.testing.assert_array_equal(results.iqm_with_interval(values)[1], [low, high])  # the same every time
    one, interval = results.iqm_with_interval(np.array([[7.0]]))
    assert one == 7.0 and (interval == 7.0).all()


def test_the_probability_of_improvement_counts_pairs():
    matrices = results.score_matrices(results.scores(CURVES), {})
    ((pair, (probability, low, high)),) = results.improvement(matrices).items()
    assert pair == ("one", "two")
    wins = [
        np.mean([float(x > y) + 0.5 * float(x == y) for x in matrices["one"][:, env] for y in matrices["two"][:, env]])
        for env in (0, 1)
    ]
    # a: 20 > 15, 30 > 15, 30 > 25 of 6 pairs; b: -1 and -2 beat both
    assert wins == [0.5, pytest.approx(2 / 3)]
    assert probability == pytest.approx(np.mean(wins))
    assert 0 <= low <= probability <= high <= 1
    assert results.improvement({"one": matrices["one"]}) == {}


def test_the_table_shows_every_seed():
    lines = results.table(CURVES).splitlines()
    assert lines[2] == "| a | one | 3 | 20 | 10 to 30 | 1: 10, 2: 20, 3: 30 | 30 |"
    assert lines[4] == "| a | three | 1 | 50 | - | 1: 50 | 30 |"  # of one run nobody knows
    assert lines[-1].startswith("| b | two | 2 | -3.5 | -4 to -3 | 1: -4, 2: -3 |")
    assert len(lines) == 2 + 5


def test_steps_at_which_a_run_was_not_evaluated_are_left_out():
    one, other = curve("a", "one", 1, 1, 2, 3), Curve("a", "one", 2, np.array([10, 21, 30]), np.array([4.0, 5.0, 6.0]))
    steps, values = figures.common_timesteps([one, other])
    assert steps.tolist() == [10, 30] and values.tolist() == [[1.0, 3.0], [4.0, 6.0]]


def test_figures_are_the_same_from_the_same_numbers(tmp_path):
    names = {f"{stem}.{ending}" for stem in ("curves", "profiles", "improvement") for ending in ("png", "svg")}
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        np.random.seed(len(folder.name))
        paths = figures.draw_all(CURVES, {}, LOOKS, folder)
        assert {path.name for path in paths} == names == {path.name for path in folder.iterdir()}
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    # One variant alone has nothing to be compared with
    assert {path.stem for path in figures.draw_all(CURVES[:3], {}, LOOKS, tmp_path / "few")} == {"curves"}
    # Nor have single seeds
    single = [curve("a", "one", 1, 1.0), curve("a", "two", 1, 1.01)]
    assert {path.stem for path in figures.draw_all(single, {}, LOOKS, tmp_path / "single")} == {"curves"}


def test_no_two_of_many_variants_look_alike():
    looks = figures.styles(str(number) for number in range(21))
    assert len({(look["color"], str(look["linestyle"])) for look in looks.values()}) == 21


def finished(root: Path, write_experiment) -> list[RunFolder]:
    """Folders as finished runs leave them, with returns that tell where they come from."""
    folders = [RunFolder(root, run) for run in load_experiment(write_experiment()).runs]
    for index, folder in enumerate(folders):
        folder.prepare()
        training = folder.path / "training" / folder.run.algo / "CartPole-v1_1"
        training.mkdir(parents=True)
        returns = np.array([[1.0, 3.0], [10.0 * index, 10.0 * index + 2]])
        np.savez(training / "evaluations.npz", timesteps=[100, 200], results=returns)
        content = {"run": folder.run.as_dict(), "command": "a, b", "seconds": 1.5, "versions": {"x": "1"}}
        (folder.path / "finished.json").write_text(json.dumps(content))
    return folders


def test_results_survive_the_way_through_the_csv_file(tmp_path, write_experiment):
    folders = finished(tmp_path / "logs", write_experiment)
    (folders[3].path / "finished.json").unlink()
    rows, runs, problems = results.collect(folders)
    assert len(rows) == 3 * 4 and problems == [] and runs[0]["versions"] == "x=1"
    results.write_csv(tmp_path / "returns.csv", results.COLUMNS, rows)
    results.write_csv(tmp_path / "runs.csv", results.RUN_COLUMNS, runs)
    assert '"a, b"' in (tmp_path / "runs.csv").read_text()
    curves = results.read_curves(tmp_path / "returns.csv")
    assert [(c.variant, c.seed, c.score) for c in curves] == [
        ("stock", 1, 1.0),
        ("double", 1, 11.0),
        ("stock", 2, 21.0),
    ]
    assert all(c.timesteps.tolist() == [100, 200] and c.returns[0] == 2.0 for c in curves)
    with pytest.raises(ValueError, match=r"runs\.csv: it has the columns"):
        results.read_curves(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("CartPole-v1,stock,1,100", "a row has not 6 fields"),
        ("CartPole-v1,stock,,100,0,1.0", "invalid literal for int"),
        ("CartPole-v1,stock,1,100,0,", "could not convert string to float: ''"),
        ('"CartPole-v1', "unexpected end of data"),
    ],
)
def test_damaged_curves_are_not_drawn(tmp_path, row, message):
    (tmp_path / "returns.csv").write_text(",".join(results.COLUMNS) + "\n" + row)
    with pytest.raises(ValueError, match=r"returns\.csv: ") as error:
        results.read_curves(tmp_path / "returns.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "damage", ["truncated", "one bit", "foreign", "one array", "other arrays", "text", "NaN", "missing"]
)
def test_a_result_that_cannot_be_read_is_named_and_left_out(tmp_path, write_experiment, damage):
    folders = finished(tmp_path / "logs", write_experiment)
    path = folders[1].training_folder() / "evaluations.npz"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:150])
    elif damage == "one bit":
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 6] ^= 128  # a ZIP file of a version to come
        path.write_bytes(content)
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "text":
        np.savez(path, timesteps=[1], results=[["a", "b"]])
    elif damage == "foreign":
        path.write_text("timesteps")
    elif damage == "other arrays":
        np.savez(path, timesteps=[1, 2, 3], results=np.zeros((2, 2)))
    elif damage == "NaN":
        np.savez(path, timesteps=[1], results=np.full((1, 2), np.nan))
    else:
        path.unlink()
    rows, runs, problems = results.collect(folders)
    assert len(runs) == 3 and len(rows) == 3 * 4
    (problem,) = problems
    assert problem.startswith("double/CartPole-v1/seed_1: ") and "evaluations.npz" in problem


def test_finished_runs_with_other_settings_are_not_taken_for_these(tmp_path, write_experiment):
    folders = finished(tmp_path / "logs", write_experiment)
    for folder in folders:
        folder.check_settings()
    text = write_experiment().read_text().replace("buffer_size: 1000", "buffer_size: 900")
    changed = load_experiment(write_experiment(text)).runs[0]
    with pytest.raises(ValueError, match=r"seed_1 is finished with other settings \(hyperparams\): take another"):
        RunFolder(tmp_path / "logs", changed).check_settings()


def test_the_settings_of_the_base_count_and_not_where_it_lies(tmp_path, write_experiment):
    def load(rate: float) -> RunFolder:
        (tmp_path / "mine.yml").write_text(f"default: {{n_timesteps: 100, policy: MlpPolicy, learning_rate: {rate}}}")
        text = "{environments: [CartPole-v1], seeds: [1], n_timesteps: 9, variants: {a: {algo: dqn, base: mine.yml}}}"
        return RunFolder(tmp_path / "logs", load_experiment(write_experiment(text)).runs[0])

    folder = load(0.1)
    folder.prepare()
    content = {**folder.run.as_dict(), "base": "/elsewhere/mine.yml"}
    (folder.path / "finished.json").write_text(json.dumps({"run": content}))
    load(0.1).check_settings()
    with pytest.raises(ValueError, match=r"other settings \(base_hyperparams\)"):
        load(0.2).check_settings()

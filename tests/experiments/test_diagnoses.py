"""What DiagnosisCallback measured in runs, on its way into the report."""

import json
import math

import numpy as np
import pytest

from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.experiments import load_experiment
from sb3_ext.experiments.diagnoses import (
    DIAGNOSIS_COLUMNS,
    NETWORK_PANELS,
    VALUE_PANELS,
    collect_diagnoses,
    draw_all_diagnoses,
    draw_diagnoses,
    read_diagnoses,
)
from sb3_ext.experiments.figures import styles
from sb3_ext.experiments.results import write_csv
from sb3_ext.experiments.runs import RunFolder

HEADER = ",".join(COLUMNS) + "\n"
# No entropy, no disagreement, no actor: as of DQN
ROWS = ["100,0.5,0.25,3.0,2.0,40,,,1.5,,0.1,0.2,30.0\n", "200,,,4.0,,0,,,2.5,,0.1,0.25,31.0\n"]


@pytest.fixture
def folders(tmp_path, write_experiment) -> list[RunFolder]:
    """Finished runs, each with a diagnosis."""
    folders = [RunFolder(tmp_path / "logs", run) for run in load_experiment(write_experiment()).runs]
    for folder in folders:
        folder.prepare()
        logger = folder.path / "training" / "tensorboard" / "CartPole-v1" / "DQN_1"
        logger.mkdir(parents=True)
        (logger / "diagnosis.csv").write_text(HEADER + "".join(ROWS))
        content = {"run": folder.run.as_dict(), "command": "", "seconds": 1.0, "versions": {}}
        (folder.path / "finished.json").write_text(json.dumps(content))
    return folders


def test_measurements_survive_the_way_through_the_csv_file(tmp_path, folders):
    (folders[3].path / "finished.json").unlink()
    rows, problems = collect_diagnoses(folders)
    assert len(rows) == 3 * 2 and problems == []
    write_csv(tmp_path / "diagnosis.csv", DIAGNOSIS_COLUMNS, rows)
    ((env, by_variant),) = read_diagnoses(tmp_path / "diagnosis.csv").items()
    assert env == "CartPole-v1"
    assert {name: list(by_seed) for name, by_seed in by_variant.items()} == {"stock": ["1", "2"], "double": ["1"]}
    run = by_variant["double"]["1"]
    assert run["timesteps"].tolist() == [100.0, 200.0] and run["critic_grad_norm"].tolist() == [1.5, 2.5]
    np.testing.assert_array_equal(run["normalized_bias_mean"], [0.5, math.nan])
    with pytest.raises(ValueError, match=r"other\.csv: it has the columns \['a'\]"):
        (tmp_path / "other.csv").write_text("a\n1\n")
        read_diagnoses(tmp_path / "other.csv")
    (tmp_path / "diagnosis.csv").write_text((tmp_path / "diagnosis.csv").read_text()[:-10])
    with pytest.raises(ValueError, match=r"diagnosis\.csv: a row has not 16 fields"):
        read_diagnoses(tmp_path / "diagnosis.csv")


def test_there_is_a_panel_for_each_kind_of_measurement_and_a_line_for_each_seed(tmp_path, folders):
    write_csv(tmp_path / "diagnosis.csv", DIAGNOSIS_COLUMNS, collect_diagnoses(folders)[0])
    diagnoses = read_diagnoses(tmp_path / "diagnosis.csv")["CartPole-v1"]
    figures = [draw_diagnoses(diagnoses, styles(diagnoses), panels) for panels in (VALUE_PANELS, NETWORK_PANELS)]
    axes = [axis for figure in figures for axis in figure.axes]
    titles = [axis.get_title() for axis in axes]
    assert len(titles) == 6 and not any("entropy" in title or "actor" in title for title in titles)
    assert len(figures[0].axes) == 3
    (rank,) = (axis for axis in axes if "rank" in axis.get_title())
    assert [line.get_ydata().tolist() for line in rank.lines] == [[30.0, 31.0]] * 4
    for figure in figures:
        assert [text.get_text() for text in figure.legends[0].texts] == ["stock", "double"]
    (q_values,) = (axis for axis in axes if "Monte-Carlo" in axis.get_title())
    np.testing.assert_array_equal([line.get_ydata() for line in q_values.lines[:2]], [[3.0, 4.0], [2.0, math.nan]])


def test_where_nothing_was_measured_there_is_nothing_to_see():
    nothing = {"some": {"1": {name: np.array([math.nan]) for name in COLUMNS}}}
    (axis,) = draw_diagnoses(nothing, styles(nothing)).axes
    assert not np.isfinite(axis.lines[0].get_ydata()).any()


def test_figures_are_the_same_from_the_same_numbers_and_old_ones_go(tmp_path, folders):
    rows, _ = collect_diagnoses(folders)
    rows += [{**row, "environment": "ALE/Pong-v5"} for row in rows]
    contents = []
    for name in ("one", "other"):
        folder = tmp_path / name
        write_csv(folder / "diagnosis.csv", DIAGNOSIS_COLUMNS, rows)
        (folder / "diagnosis_Old-v1.svg").write_text("old")
        paths = draw_all_diagnoses(read_diagnoses(folder / "diagnosis.csv"), styles(["stock", "double"]), folder)
        contents.append({path.name: path.read_bytes() for path in paths})
        assert {path.name for path in folder.iterdir()} == {"diagnosis.csv", *contents[0]}
    assert contents[0] == contents[1]
    stems = [f"{kind}_{env}" for kind in ("diagnosis", "networks") for env in ("CartPole-v1", "ALE-Pong-v5")]
    assert set(contents[0]) == {f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it has the columns None"),
        ("timesteps,reward\n1,2\n", r"it has the columns ['timesteps', 'reward']"),
        (HEADER + ROWS[0] + ROWS[1][:9], "a row has not 13 fields"),
        (HEADER + ROWS[0].replace("0.5", "0,5"), "a row has not 13 fields"),
        (HEADER + ROWS[0].replace("0.5", "half"), "could not convert string to float: 'half'"),
        (HEADER + "\udcff", "can't decode"),
        (HEADER + '"1', "unexpected end of data"),
        (HEADER + ROWS[0] * 2, "must increase, and 100 comes after 100"),
        (HEADER + ROWS[0].replace("100", ""), "must increase, and nan comes after 0"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_left_out(folders, content, message):
    (path,) = folders[1].diagnosis_files()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    rows, problems = collect_diagnoses(folders)
    assert len(rows) == 3 * 2
    (problem,) = problems
    assert problem.startswith("double/CartPole-v1/seed_1: diagnosis.csv: ") and message in problem

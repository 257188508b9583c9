"""The comparison with the training of REDQ's authors, whose code a stand-in with the same interface replaces."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch as th

TINY = {"env": "Pendulum-v1", "steps": 40, "eval-every": 20, "episodes": 2, "learning-starts": 10}
TINY |= {"n-critics": 2, "width": 8, "utd": 2, "batch-size": 8}

# Their loop as far as it asks something of the environment and of us
LOOP = """
import gym
from redq.algos.redq_sac import REDQSACAgent
from redq.utils.logx import EpochLogger

def test_agent(agent, env, max_ep_len, logger):
    raise AssertionError("their evaluation takes time")

def redq_sac(env_name, seed, epochs, steps_per_epoch, evaluate_bias, start_steps, utd_ratio, target_entropy, **others):
    logger = EpochLogger(output_dir="nowhere")
    logger.save_config(locals())
    env = gym.make(env_name)
    env.seed(seed)
    env.action_space.np_random.seed(seed)
    assert not evaluate_bias and target_entropy == "auto"
    agent = REDQSACAgent(env.action_space.high[0].item(), start_steps, utd_ratio, **others)
    o, ep_len = env.reset(), 0
    for t in range(epochs * steps_per_epoch + 1):
        o, r, d, _ = env.step(env.action_space.sample())
        ep_len += 1
        agent.train(logger)
        if d or ep_len == env._max_episode_steps:
            o, ep_len = env.reset(), 0
        if (t + 1) % steps_per_epoch == 0:
            test_agent(agent, env, env._max_episode_steps, logger)
            logger.log_tabular("TestEpRet", with_min_and_max=True)
            logger.dump_tabular()
"""
AGENT = """
import numpy as np

class REDQSACAgent:
    def __init__(self, act_limit, start_steps, utd_ratio, **others):
        assert (act_limit, start_steps, utd_ratio) == (2.0, 10, 2)
        assert (others["num_Q"], others["num_min"], others["hidden_sizes"], others["polyak"]) == (2, 2, (8, 8), 0.995)
        self.n_trained = 0

    def train(self, logger):
        self.n_trained += 1
        logger.store(LossPi=0)

    def get_test_action(self, obs):
        assert self.n_trained in (20, 40), "evaluated after the updates of this step"
        return np.zeros(1, np.float32)
"""


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("redq_against_authors")


@pytest.fixture
def authors_code(tmp_path: Path) -> Path:
    folder = tmp_path / "REDQ"
    for name, text in (("experiments/train_redq_sac.py", LOOP), ("redq/algos/redq_sac.py", AGENT)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def main(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def call(command: str, output: Path, *arguments: object) -> None:
        tiny = [word for name, value in TINY.items() for word in (f"--{name}", value)] if command != "summary" else []
        words = ["redq_against_authors.py", command, "--output", output, *tiny, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        n_threads = th.get_num_threads()
        script.main()
        th.set_num_threads(n_threads)

    return call


def read(path: Path) -> list[dict[str, str]]:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Python") and ", 1 threads, " in lines[0] and "; sb3_ext: " in lines[0]
    assert lines[1].startswith("# python benchmarks/redq_against_authors.py ")
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def make_rows(contestant: str, seed: int, curve: dict[int, list[float]], cpu_seconds: float = 60.0) -> list[dict]:
    identity = {"contestant": contestant, "seed": str(seed), "cpu_seconds": str(cpu_seconds)}
    return [
        {**identity, "steps": str(steps), "episode": str(episode), "return": str(value)}
        for steps, values in curve.items()
        for episode, value in enumerate(values)
    ]


def test_both_are_evaluated_at_the_same_steps(main: Callable[..., None], authors_code: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "raw.csv"
    main("train", output, "--contestant", "ours", "--seed", 3)
    main("train", output, "--contestant", "authors", "--seed", 3, "--authors-code", authors_code)
    rows = read(output)
    evaluations = [(steps, episode) for steps in ("20", "40") for episode in "01"]
    for contestant in ("ours", "authors"):
        of_one = [row for row in rows if row["contestant"] == contestant]
        assert [(row["steps"], row["episode"]) for row in of_one] == evaluations
        assert all((row["seed"], row["env"], row["length"]) == ("3", "Pendulum-v1", "200") for row in of_one)
        assert len({row["return"] for row in of_one}) == 4  # each episode has a first state of its own
    assert str(tmp_path) not in output.read_text().split("--output")[0]


def test_what_is_there_is_not_trained_again(
    main: Callable[..., None], script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "raw.csv"
    settings = {name.replace("-", "_"): value for name, value in TINY.items()}
    script.begin(output, script.Settings(**settings), None)
    rows = make_rows("ours", 1, {20: [1.0, 2.0], 40: [3.0, 5.0]}) + make_rows("ours", 2, {20: [1.0, 2.0]})
    with output.open("a", newline="") as file:
        csv.DictWriter(file, script.COLUMNS).writerows(rows)
    before = output.read_text()
    main("all", output, "--contestants", "ours", "--seeds", 1)
    assert output.read_text() == before
    main("summary", output)
    printed = capsys.readouterr().out.splitlines()
    assert "not finished, left out: ours, seed 2" in printed and "| 40 | 4 |" in printed


@pytest.mark.slow
def test_an_interrupted_run_begins_again(main: Callable[..., None], script: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "raw.csv"
    main("train", output, "--contestant", "ours", "--seed", 1)
    before = output.read_text()
    output.write_text("".join(line for line in before.splitlines(keepends=True) if ",40," not in line))
    main("all", output, "--contestants", "ours", "--seeds", 1)
    # The same seed gives the same returns
    assert len(read(output)) == 2 + 4
    assert script.runs_of(read(output)) == script.runs_of(list(csv.DictReader(before.splitlines()[3:])))


def test_the_summary_follows_from_the_rows(script: ModuleType) -> None:
    rows = [
        *make_rows("ours", 0, {10: [1.0, 3.0], 20: [10.0, 10.0]}),
        *make_rows("ours", 1, {10: [4.0, 4.0], 20: [20.0, 40.0]}, cpu_seconds=120.0),
        *make_rows("ours", 2, {10: [900.0, 900.0]}),  # not finished
        *make_rows("authors", 0, {10: [500.0, 500.0]}),  # began again
        *make_rows("authors", 0, {10: [0.0, 0.0], 20: [6.0, 6.0]}),
        *make_rows("authors", 1, {10: [0.0, 0.0], 20: [6.0, 6.0]}),
    ]
    # Areas: 6 and 17 of ours, whose standard deviation is 11 / sqrt(2), 3 and 3 of theirs
    assert script.summary(rows, 20).splitlines() == [
        "| steps | ours (2) | authors (2) |",
        "|---|---|---|",
        "| 10 | 3 ± 1 | 0 ± 0 |",
        "| 20 | 20 ± 14 | 6 ± 0 |",
        "| mean of all | 12 ± 8 | 3 ± 0 |",
        "| CPU minutes a run | 1.5 | 1.0 |",
        "",
        "Mean of all, ours minus authors: 8, 95 % from 3 to 14",
    ]
    assert "95 %" not in script.summary([row for row in rows if row["seed"] == "0"], 20)


def test_the_interval_is_that_of_the_normal_approximation(script: ModuleType) -> None:
    generator = np.random.default_rng(1)
    ones, others = generator.normal(5.0, 3.0, 200), generator.normal(1.0, 4.0, 300)
    error = np.sqrt(ones.var() / 200 + others.var() / 300)
    middle = ones.mean() - others.mean()
    assert script.bootstrap(ones, others) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.05)


def test_the_third_contestant_starts_with_the_authors_weights(script: ModuleType) -> None:
    model = script.make_ours(script.Settings(env="Pendulum-v1", steps=10, n_critics=3), "ours_xavier", 0)
    linears = [layer for i in range(3) for layer in model.critic.ensemble.member(i) if isinstance(layer, th.nn.Linear)]
    linears += [layer for layer in model.actor.modules() if isinstance(layer, th.nn.Linear)]
    assert len(linears) == 3 * 3 + 4
    for layer in linears:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    pairs = zip(model.critic.parameters(), model.critic_target.parameters(), strict=True)
    assert all(th.equal(one, target) for one, target in pairs)
    first, second = (model.critic.ensemble.member(i)[0].weight for i in range(2))
    assert not th.equal(first, second)


def test_the_old_interface_of_an_environment(load_script: Callable[[str], ModuleType]) -> None:
    env = load_script("authors_training").OldEnv("Pendulum-v1")
    starts = []
    for _ in range(2):
        env.seed(7)
        env.action_space.np_random.seed(7)
        starts.append([env.reset(), env.reset(), env.action_space.sample()])
    assert all(np.array_equal(one, other) for one, other in zip(*starts, strict=True))
    assert not np.array_equal(starts[0][0], starts[0][1])
    dones = [env.step(env.action_space.sample())[2] for _ in range(200)]
    assert dones == [False] * 199 + [True] and env._max_episode_steps == 200


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train", ("--contestant", "authors"), "git clone https://github.com/watchernyu/REDQ"),
        ("all", ("--authors-code", "nowhere"), "there is no experiments/train_redq_sac.py"),
        ("train", ("--contestant", "ours", "--steps", 30), "--steps 30 must be a multiple of --eval-every 20"),
        ("train", ("--contestant", "ours", "--n-critics", 0), "--n-critics 0 must be at least 1"),
        ("summary", (), "there is no such file"),
    ],
)
def test_bad_arguments_are_refused(
    main: Callable[..., None],
    command: str,
    arguments: tuple[object, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(command, tmp_path / "raw.csv", *arguments)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_settings_do_not_go_into_one_file(
    main: Callable[..., None], script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "raw.csv"
    script.begin(output, script.Settings(env="Pendulum-v1"), None)
    with pytest.raises(SystemExit):
        main("train", output, "--contestant", "ours")
    assert "has other settings: Settings(env='Pendulum-v1', steps=25000," in capsys.readouterr().err
    output.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        main("summary", output)
    assert "this script did not write it" in capsys.readouterr().err

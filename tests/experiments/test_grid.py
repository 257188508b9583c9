"""What an experiment file says, and what is said about a wrong one before anything runs."""

import json
from pathlib import Path

import pytest

from sb3_ext.experiments import ExperimentError, load_experiment

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "experiments").glob("*.yml"))


def test_a_grid_is_environments_times_variants_times_seeds(write_experiment):
    experiment = load_experiment(
        write_experiment(
            """
            environments:
              CartPole-v1:
              Acrobot-v1: {n_timesteps: 3e3, hyperparams: {gamma: 0.9}, env_kwargs: {render_mode: rgb_array}}
            seeds: [3, 1]
            n_timesteps: 2000
            hyperparams: {learning_rate: 5e-4, gamma: 0.99, batch_size: 16}
            variants:
              stock: {algo: dqn}
              ours: {algo: double_dqn, eval_freq: 7, hyperparams: {batch_size: 32, gamma: 0.5}}
            """,
            "my_grid.yml",
        )
    )
    assert experiment.name == "my_grid"
    assert experiment.environments == ["CartPole-v1", "Acrobot-v1"] and experiment.variants == ["stock", "ours"]
    # Seed by seed: all variants are compared as early as possible
    assert [run.name for run in experiment.runs] == [
        "stock/CartPole-v1/seed_3",
        "ours/CartPole-v1/seed_3",
        "stock/Acrobot-v1/seed_3",
        "ours/Acrobot-v1/seed_3",
        "stock/CartPole-v1/seed_1",
        "ours/CartPole-v1/seed_1",
        "stock/Acrobot-v1/seed_1",
        "ours/Acrobot-v1/seed_1",
    ]
    cart_stock, cart_ours, acro_stock, acro_ours = experiment.runs[:4]
    # The file, then the environment, then the variant
    assert cart_stock.hyperparams == {"learning_rate": 0.0005, "gamma": 0.99, "batch_size": 16}
    assert acro_stock.hyperparams == {"learning_rate": 0.0005, "gamma": 0.9, "batch_size": 16}
    assert cart_ours.hyperparams == acro_ours.hyperparams == {"learning_rate": 0.0005, "gamma": 0.5, "batch_size": 32}
    assert (cart_stock.n_timesteps, acro_stock.n_timesteps) == (2000, 3000)
    assert (cart_stock.eval_freq, acro_stock.eval_freq, acro_ours.eval_freq) == (100, 150, 7)
    assert acro_stock.env_kwargs == {"render_mode": "rgb_array"} and cart_stock.env_kwargs == {}
    assert json.loads(json.dumps(acro_ours.as_dict())) == acro_ours.as_dict()
    shorter = experiment.with_timesteps(500).runs[3]
    assert (shorter.n_timesteps, shorter.eval_freq) == (500, 1)
    assert experiment.with_timesteps(500).runs[0].eval_freq == 25


WITH_A_BASE = """
    environments: [{env}]
    seeds: [1]
    n_timesteps: 200
    variants: {{a: {{algo: dqn, base: mine.yml}}}}
"""


def test_another_file_can_be_the_base(write_experiment, tmp_path):
    (tmp_path / "mine.yml").write_text("default: {n_timesteps: 100, policy: MlpPolicy, env_kwargs: {sutton: 1}}")
    (run,) = load_experiment(write_experiment(WITH_A_BASE.format(env="CartPole-v1"))).runs
    assert run.base == str((tmp_path / "mine.yml").resolve())
    assert run.base_hyperparams["n_timesteps"] == 100
    # rl_zoo3 itself would give them to the training only
    assert run.env_kwargs == {"sutton": 1} and "env_kwargs" not in run.hyperparams


@pytest.mark.parametrize(
    ("base", "env", "message"),
    [
        (
            "Acrobot-v1: {n_timesteps: 1}",
            "CartPole-v1",
            r"variants\.a\.base: .*mine\.yml has no hyperparameters for CartP",
        ),
        (
            "default: {n_timesteps: 1}",
            "ALE/Pong-v5",
            r"variants\.a\.base: .*mine\.yml has no hyperparameters for ALE/Pong",
        ),
        (
            "default: {learnig_rate: 1}",
            "CartPole-v1",
            r"variants\.a\.base .*: default\.learnig_rate: dqn's parameter .*",
        ),
        ("default: {learnig_rate: 1", "CartPole-v1", r"variants\.a\.base: .*mine\.yml is no YAML file"),
        ("[1]", "CartPole-v1", r"variants\.a\.base: \[1\] must be a mapping"),
    ],
)
def test_a_base_that_rl_zoo3_could_not_use(write_experiment, tmp_path, base, env, message):
    if env.startswith("ALE"):
        pytest.importorskip("ale_py")
    (tmp_path / "mine.yml").write_text(base)
    with pytest.raises(ExperimentError, match=message):
        load_experiment(write_experiment(WITH_A_BASE.format(env=env)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("algo: dqn", "algo: dqm", r"variants\.stock\.algo: algorithm 'dqm' is not known: did you mean 'dqn'\?"),
        ("algo: double_dqn, ", "", r"variants\.double: has no algo"),
        ("CartPole-v1", "CartPole-v9", r"environments\.CartPole-v9: environment .* did you mean 'CartPole-v1'\?"),
        ("CartPole-v1", "Nowhere-v0", r"environments\.Nowhere-v0: environment 'Nowhere-v0' is not known: .*"),
        (
            "buffer_size: 1000",
            "bufer_size: 1000",
            r": hyperparams\.bufer_size: dqn's parameter 'bufer_size' .* did you mean 'buffer_size'\?",
        ),
        ("policy: MlpPolicy, ", "", r"variants\.stock\.hyperparams: policy is missing"),
        ("buffer_size: 1000", "n_critics: 2", r"dqn's parameter 'n_critics' is not known"),
        (
            "dueling=True)",
            'dueling=True)", buffer: "1',
            r"variants\.double\.hyperparams\.buffer: double_dqn's parameter",
        ),
        ("buffer_size: 1000", "env_kwargs: {}", r"hyperparams\.env_kwargs: dqn's parameter 'env_kwargs' is not known"),
        ("algo: dqn", "algo: 5", r"variants\.stock\.algo: algorithm 5 is not known: allowed are"),
        ("algo: dqn", "algo: [dqn]", r"variants\.stock\.algo: algorithm \['dqn'\] is not known: did you mean 'dqn'"),
        ("double:", "stock:", r"YAML: 'stock' is there twice"),
        ("buffer_size: 1000", "seed: 2", r"dqn's parameter 'seed' is not known"),
        ("eval_freq: 100", "eval_fraq: 100", r"eval_fraq: key 'eval_fraq' is not known: did you mean 'eval_freq'\?"),
        ("eval_freq: 100", "eval_freq: 300", r"eval_freq: 300 must be at most n_timesteps=200"),
        ("eval_freq: 100", "eval_freq: 0", r"eval_freq: 0 must be an integer, 1 or more"),
        ("n_timesteps: 200", "n_timesteps: many", r"n_timesteps: 'many' must be an integer, 1 or more"),
        ("n_timesteps: 200", "", r"variants\.stock: has no n_timesteps"),
        ("seeds: [1, 2]", "seeds: [1, 1]", r"seeds: \[1, 1\] must be a list of different integers"),
        ("seeds: [1, 2]", "seeds: 3", r"seeds: 3 must be a list"),
        ("seeds: [1, 2]", "seeds: [-1]", r"seeds: \[-1\] must be a list"),
        ("[CartPole-v1]", "[]", r"environments: \[\] must be a list, or a mapping"),
        ("[CartPole-v1]", "[CartPole-v1, CartPole-v1]", r"environments: .* has an entry twice"),
        ("base: none", "base: nowhere.yml", r"base: there is no file .*nowhere\.yml"),
        ("base: none", "gym_packages: [no_such_module]", r"gym_packages\.no_such_module: cannot be imported"),
        ("base: none", "gym_packages: ale_py", r"gym_packages: 'ale_py' must be a list of modules"),
        ("base: none", "score_range: {CartPole-v1: [500, 0]}", r"score_range\.CartPole-v1: \[500, 0\] must be two"),
        ("base: none", "score_range: {CartPole-v2: [0, 500]}", r"score_range\.CartPole-v2: environment"),
        ("stock:", "a/b:", r"variants\.a/b: names are made of"),
        ("{policy: MlpPolicy, learning_starts: 50, buffer_size: 1000}", "3", r"hyperparams: 3 must be a mapping"),
        ("seeds: [1, 2]", "seeds: [1, 2", r"YAML: while parsing"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(write_experiment, old, new, message):
    path = write_experiment()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ExperimentError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_of_something_else(write_experiment):
    with pytest.raises(ExperimentError, match=r"the file: \[1, 2\] must be a mapping"):
        load_experiment(write_experiment("[1, 2]"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_right(path):
    experiment = load_experiment(path)
    assert len(experiment.variants) >= 2 and len({run.name for run in experiment.runs}) == len(experiment.runs)


def test_there_are_examples():
    assert EXAMPLES

"""
What a user types, in an empty folder and an environment that has only the wheel.

Every start of rl_zoo3 takes seconds, so a run that later tests build on is done once, and a command line that can be
checked in passing is.
"""

import json
from pathlib import Path

import optuna
import pytest
import yaml

from sb3_ext.zoo import ZOO_ALGORITHMS

# With these, a step costs next to nothing.
SMALL = ("learning_starts:20", "batch_size:8", "gradient_steps:2", "buffer_size:500")
SMALL_POLICY = "policy_kwargs:dict(n_critics=3, net_arch=[8])"
NO_WARNING = ("-W", "error::RuntimeWarning:sb3_ext_startup")

# What pip writes into the script `rl_zoo3`, which is installed with rl_zoo3 and so not in our environment.
CONSOLE_SCRIPT = """
import sys
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="rl_zoo3")
sys.argv[0] = "rl_zoo3"
sys.exit(script.load()())
"""


def train_arguments(*more, algo="redq_sac", n=60):
    return ("--algo", algo, "--env", "Pendulum-v1", "-n", str(n), "--eval-freq", "-1", "--seed", "3", *more)


def optimize_arguments(storage, n_trials):
    # Two steps after the shortest warm-up: whatever was drawn is trained with.
    return train_arguments(
        *("-optimize", "--n-trials", str(n_trials), "--n-evaluations", "1", "--eval-episodes", "1"),
        *("--storage", str(storage), "--study-name", "tuned", "--sampler", "random", "--no-optim-plots"),
        n=102,
    )


def only_run(folder, number=1):
    run = folder / "logs" / "redq_sac" / f"Pendulum-v1_{number}"
    assert (run / "Pendulum-v1.zip").is_file()
    return run


def config_of(run):
    return dict(yaml.load((run / "Pendulum-v1" / "config.yml").read_text(), Loader=yaml.UnsafeLoader))


@pytest.fixture(scope="module")
def trained(installed, tmp_path_factory):
    """A folder in which ``python -m rl_zoo3.train`` has run, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    # all_plots takes no fewer than two episodes.
    arguments = train_arguments("--eval-episodes", "2", "--save-replay-buffer", "-P", "-tb", "tb", n=450)
    output = installed.run(
        *NO_WARNING,
        *("-m", "rl_zoo3.train", *arguments, "--eval-freq", "200", "-params", *SMALL, SMALL_POLICY),
        cwd=folder,
    )
    return folder, output


@pytest.fixture(scope="module")
def study(installed, tmp_path_factory):
    """A folder with a journal that two processes have written, each of them two trials."""
    folder = tmp_path_factory.mktemp("study")
    command = (*NO_WARNING, "-m", "rl_zoo3.train", *optimize_arguments("journal.log", 2))
    workers = [installed.start(*command, "--seed", str(seed), cwd=folder) for seed in (1, 2)]
    for worker in workers:
        installed.finish(worker)
    return folder


def test_train_reads_our_yaml(trained, installed):
    folder, output = trained
    yaml_file = installed.site_packages / "sb3_ext" / "hyperparams" / "redq_sac.yml"
    assert f"Loading hyperparameters from: {yaml_file}" in output
    run = only_run(folder)
    assert {"best_model.zip", "evaluations.npz", "replay_buffer.pkl"} <= {path.name for path in run.iterdir()}
    defaults = yaml.safe_load(yaml_file.read_text())
    config = config_of(run)
    expected = defaults.get("Pendulum-v1", defaults["default"])
    assert {**expected, **config} == config | {name: expected[name] for name in expected if name not in config}
    assert config["gradient_steps"] == 2 and config["policy_kwargs"] == {"n_critics": 3, "net_arch": [8]}
    # SB3 calls a run after `tb_log_name`, and a run of ours must not look like one of its SAC.
    assert [path.name for path in (folder / "tb" / "Pendulum-v1").iterdir()] == ["REDQSAC_1"]


def test_mujoco_from_train_to_enjoy(installed, tmp_path):
    names = ("--algo", "redq_sac", "--env", "Humanoid-v4")
    policy = "policy_kwargs:dict(width=8, actor_width=8, n_blocks=1)"
    small = ("learning_starts:30", "batch_size:16", "gradient_steps:2", "buffer_size:500", "compile:False", policy)
    options = ("-n", "40", "--eval-freq", "20", "--eval-episodes", "1", "-P", "-params")
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *names, *options, *small, cwd=tmp_path)
    assert "('policy', 'NormalizedMlpPolicy')" in output
    assert (tmp_path / "logs" / "redq_sac" / "Humanoid-v4_1" / "best_model.zip").is_file()
    output = installed.run(
        *NO_WARNING, "-m", "rl_zoo3.enjoy", *names, "-f", "logs", "--no-render", "-n", "60", cwd=tmp_path
    )
    assert "Mean reward" in output


def test_enjoy(trained, installed):
    folder, _ = trained
    command = ("-m", "rl_zoo3.enjoy", "--algo", "redq_sac", "--env", "Pendulum-v1", "-f", "logs", "--no-render")
    output = installed.run(*NO_WARNING, *command, "-n", "210", cwd=folder)
    assert "1 Episodes" in output and "Mean episode length: 200.00" in output


@pytest.mark.parametrize("algo", ["rainbow", "btr"])
def test_presets_from_train_to_enjoy(algo, installed, tmp_path):
    names = ("--algo", algo, "--env", "CartPole-v1")
    small = ("learning_starts:20", "batch_size:8", "buffer_size:500", "train_freq:4", "gradient_steps:1")
    options = ("-n", "80", "--eval-freq", "40", "--eval-episodes", "1", "-params")
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *names, *options, *small, cwd=tmp_path)
    assert "('policy', 'MlpPolicy')" in output
    output = installed.run(
        *NO_WARNING, "-m", "rl_zoo3.enjoy", *names, "-f", "logs", "--no-render", "--load-best", "-n", "60", cwd=tmp_path
    )
    assert "Mean episode length" in output or "Episode Reward" in output


@pytest.mark.slow
def test_a_network_of_this_package_by_its_name(installed, tmp_path):
    """As in the comment of btr.yml: in ``-params``, and in a YAML file."""
    pytest.importorskip("ale_py")
    policy = (
        "dict(features_extractor_class=sb3_ext.nets.ImpalaConvolutions, net_arch=[], "
        "features_extractor_kwargs=dict(features_dim=16, width=1, normalization='layer'))"
    )
    names = ("-m", "rl_zoo3.train", "--algo", "btr", "--env", "ALE/Boxing-v5", "--eval-freq", "-1", "-n", "48")
    small = ("learning_starts:16", "batch_size:2", "buffer_size:200", "n_envs:2", "train_freq:16")
    query = """
import sys
from sb3_ext import IQN
for path in sys.argv[1:]:
    model = IQN.load(path)
    print(type(model.q_net.features_extractor).__name__, model._n_updates)
"""
    entry = {"ALE/Boxing-v5": {"n_timesteps": 48, "policy": "CnnPolicy", "frame_stack": 4, "policy_kwargs": policy}}
    entry["ALE/Boxing-v5"]["vec_env_wrapper"] = "sb3_ext.envs.use_ale_vector"
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(entry))
    installed.run(*NO_WARNING, *names, "-params", *small, f"policy_kwargs:{policy}", cwd=tmp_path)
    installed.run(*NO_WARNING, *names, "--conf-file", "mine.yml", "-params", *small, cwd=tmp_path)
    paths = sorted(str(path) for path in tmp_path.glob("logs/btr/ALE-Boxing-v5_?/ALE-Boxing-v5.zip"))
    loaded = [line.split() for line in installed.run("-c", query, *paths, cwd=tmp_path).splitlines()]
    assert [network for network, _ in loaded] == ["ImpalaConvolutions"] * 2
    assert all(int(n_updates) > 0 for _, n_updates in loaded)


def test_an_agent_is_imitated(trained, installed, tmp_path):
    folder, _ = trained
    expert = f"expert:'{only_run(folder) / 'best_model.zip'}'"
    names, options = ("--env", "Pendulum-v1"), ("--eval-freq", "40", "--eval-episodes", "1", "-params", expert)
    cloned = ("-m", "rl_zoo3.train", "--algo", "bc", *names, "-n", "60", *options, "n_demonstrations:200")
    installed.run(*NO_WARNING, *cloned, cwd=tmp_path)
    assert (tmp_path / "logs" / "bc" / "Pendulum-v1_1" / "best_model.zip").is_file()
    asked = (
        "-m",
        "rl_zoo3.train",
        "--algo",
        "dagger",
        *names,
        "-n",
        "60",
        *options,
        "train_freq:20",
        "gradient_steps:5",
    )
    installed.run(*NO_WARNING, *asked, cwd=tmp_path)
    enjoy = ("-m", "rl_zoo3.enjoy", "--algo", "dagger", *names, "-f", "logs", "--no-render", "-n", "210")
    assert "1 Episodes" in installed.run(*NO_WARNING, *enjoy, cwd=tmp_path)
    missing = ("-m", "rl_zoo3.train", "--algo", "dagger", *names, "-n", "60")
    output = installed.finish(installed.start(*NO_WARNING, *missing, cwd=tmp_path), success=False)
    assert "expert=None: DAgger asks an expert in every state" in output


def test_record_video(trained, installed):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    folder, _ = trained
    command = ("-m", "rl_zoo3.record_video", "--algo", "redq_sac", "--env", "Pendulum-v1", "-f", "logs", "-n", "10")
    installed.run(*NO_WARNING, *command, "--load-best", cwd=folder)
    videos = list((only_run(folder) / "videos").glob("*.mp4"))
    assert len(videos) == 1 and videos[0].stat().st_size > 1000


def test_a_trained_agent_continues_with_its_replay_buffer(trained, installed, tmp_path):
    folder, _ = trained
    agent = only_run(folder) / "Pendulum-v1.zip"
    arguments = train_arguments("-i", str(agent), "--save-replay-buffer", "-params", *SMALL, SMALL_POLICY)
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *arguments, cwd=tmp_path)
    assert "Loading pretrained agent" in output and "Loading replay buffer" in output
    query = """
import json, pickle, sys
from sb3_ext import REDQSAC
model = REDQSAC.load(sys.argv[1])
buffer = pickle.load(open(sys.argv[2], "rb"))
print(json.dumps([model.num_timesteps, model._n_updates, buffer.pos, buffer.full]))
"""
    run = only_run(tmp_path)
    paths = (str(run / "Pendulum-v1.zip"), str(run / "replay_buffer.pkl"))
    num_timesteps, n_updates, position, full = json.loads(installed.run("-c", query, *paths, cwd=tmp_path))
    # rl_zoo3 starts to count again, with a warm-up of 20 steps; the buffer of 500 has wrapped at 450 + 60, and the
    # number of updates, on which the phase of the delayed actor depends, goes on: 2 for each of 430 + 40 steps.
    assert (num_timesteps, position, full) == (60, 10, True)
    assert n_updates == 2 * (430 + 40)


def test_plots(trained, installed):
    folder, _ = trained
    command = ("-m", "rl_zoo3.plots.plot_train", "-a", "redq_sac", "-e", "Pendulum-v1", "-f", "logs", "-w", "1")
    assert "No data available" not in installed.run(*command, cwd=folder)
    command = ("-m", "rl_zoo3.plots.all_plots", "-a", "redq_sac", "-e", "Pendulum", "-f", "logs", "--no-million")
    output = installed.run(*command, "-o", "results", cwd=folder)
    assert "REDQ_SAC" in output and "Pendulum" in output
    assert (folder / "results.pkl").is_file()


def test_console_script_with_subprocesses_and_a_configuration(installed, tmp_path):
    mine = {"n_timesteps": 60.0, "policy": "MlpPolicy", "n_envs": 2, "gradient_steps": 1, "gamma": 0.9}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"Pendulum-v1": mine}))
    arguments = train_arguments("--vec-env", "subproc", "--conf-file", "mine.yml", n=-1)
    output = installed.run(
        *NO_WARNING, "-c", CONSOLE_SCRIPT, "train", *arguments, "-params", *SMALL, SMALL_POLICY, cwd=tmp_path
    )
    assert "Loading hyperparameters from: mine.yml" in output and "Using 2 environments" in output
    config = config_of(only_run(tmp_path))
    # The command line wins over the file, and nothing comes from ours.
    assert (config["gamma"], config["gradient_steps"]) == (0.9, 2)
    assert set(config) == set(mine) | {name.split(":")[0] for name in (*SMALL, SMALL_POLICY)}


@pytest.mark.slow
def test_a_yaml_file_may_ask_for_parallel_training(installed, tmp_path):
    mine = {
        "n_timesteps": 600,
        "policy": "MlpPolicy",
        "train_freq": [1, "episode"],
        "policy_kwargs": "dict(n_critics=3, net_arch=[8])",
        "callback": [{"rl_zoo3.callbacks.ParallelTrainCallback": {"gradient_steps": 5}}],
    }
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"Pendulum-v1": mine}))
    arguments = train_arguments("--conf-file", "mine.yml", n=-1)
    installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *arguments, cwd=tmp_path)
    query = """
import sys
from sb3_ext import REDQSAC
model = REDQSAC.load(sys.argv[1])
print(model.num_timesteps, model._n_updates, model.critic.n_critics)
"""
    output = installed.run("-W", "error", "-c", query, str(only_run(tmp_path) / "Pendulum-v1.zip"), cwd=tmp_path)
    num_timesteps, n_updates, n_critics = map(int, output.split())
    # How many updates there are depends on the machine: a thread makes them five at a time
    assert (num_timesteps, n_critics, n_updates % 5) == (600, 3, 0) and n_updates > 0


def test_a_mistyped_configuration_fails(installed, tmp_path):
    arguments = train_arguments("--conf-file", "mistyped.yml")
    error = installed.finish(installed.start("-m", "rl_zoo3.train", *arguments, cwd=tmp_path), success=False)
    assert "FileNotFoundError" in error and "mistyped.yml" in error
    assert not (tmp_path / "logs").exists()


def test_two_processes_tune_on_one_journal(study):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(study / "journal.log")))
    trials = optuna.load_study(study_name="tuned", storage=storage).trials
    assert len(trials) == 4
    # A trial may be pruned, but what the sampler draws must not fail.
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials) >= 1
    reports = list((study / "logs" / "redq_sac").glob("report_*.csv"))
    assert reports


def test_a_trial_is_reloaded_as_it_was_sampled(study, installed, tmp_path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(study / "journal.log")))
    trial = optuna.load_study(study_name="tuned", storage=storage).trials[1]
    reload = ("--storage", str(study / "journal.log"), "--study-name", "tuned", "--trial-id", "1")
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *train_arguments(*reload, n=102), cwd=tmp_path)
    assert "Loading from Optuna study" in output
    sampled = ZOO_ALGORITHMS["redq_sac"].converter(trial.params)
    config = config_of(only_run(tmp_path))
    assert {name: config[name] for name in sampled} == sampled


def test_optimize_in_one_process(installed, tmp_path):
    arguments = [*optimize_arguments("", 2)]
    start = arguments.index("--storage")
    del arguments[start : start + 4]
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *arguments, cwd=tmp_path)
    assert "Number of finished trials:  2" in output and "Best trial:" in output


def test_stock_sac_is_trained_as_ever(installed, tmp_path):
    output = installed.run(*NO_WARNING, "-m", "rl_zoo3.train", *train_arguments(algo="sac", n=20), cwd=tmp_path)
    (line,) = [line for line in output.splitlines() if line.startswith("Loading hyperparameters from: ")]
    assert Path(line.split(": ")[1]).parts[-3:] == ("rl_zoo3", "hyperparams", "sac.yml")
    assert (tmp_path / "logs" / "sac" / "Pendulum-v1_1" / "Pendulum-v1.zip").is_file()


def test_fallback_without_the_start_up_shim(installed, tmp_path):
    lines = (installed.site_packages / "zz_dependencies.pth").read_text().splitlines()
    path = ":".join([str(installed.site_packages), *lines])
    # -S: Python does not read .pth files.
    fallback = ("-S", "-m", "sb3_ext.zoo")
    arguments = train_arguments("-params", *SMALL, SMALL_POLICY)
    output = installed.run(*fallback, "train", *arguments, cwd=tmp_path, PYTHONPATH=path)
    assert "redq_sac.yml" in output
    only_run(tmp_path)
    enjoy = ("enjoy", "--algo", "redq_sac", "--env", "Pendulum-v1", "-f", "logs", "--no-render", "-n", "20")
    assert "Loading" in installed.run(*fallback, *enjoy, cwd=tmp_path, PYTHONPATH=path)

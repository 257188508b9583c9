"""The search space of REDQSAC with normalized networks, which the policy of the YAML file selects."""

import optuna
import pytest
import yaml

from sb3_ext import REDQSAC
from sb3_ext.zoo import ZOO_ALGORITHMS, hyperparams_path
from tests.support.samplers import NO_HER, sample, study_of

POLICIES = pytest.mark.parametrize("policy", ["NormalizedMlpPolicy", "NormalizedMultiInputPolicy"])


@POLICIES
def test_every_draw_constructs_beside_the_yaml_file(policy: str) -> None:
    entry = yaml.safe_load(hyperparams_path("redq_sac").read_text())["Humanoid-v4"]
    yaml_arguments = {name: value for name, value in entry.items() if name not in ("n_timesteps", "policy")}
    # Refused beside target_network="none", unless the draw resets it
    yaml_arguments["target_update_interval"] = 2
    study = study_of(policy=policy, **yaml_arguments)
    targets = set()
    for _ in range(20):
        arguments = sample("redq_sac", study.ask(), NO_HER)
        given = {**yaml_arguments, "compile": False, "buffer_size": 100, "device": "cpu", **arguments}
        model = REDQSAC("NormalizedMlpPolicy", "Pendulum-v1", **given)
        assert model.critic.n_critics == arguments["policy_kwargs"]["n_critics"]
        assert model.critic.head.n_outputs == (101 if arguments["policy_kwargs"]["head"] == "categorical" else 1)
        assert model.lr_schedule(0.0) == pytest.approx(0.3 * model.lr_schedule(1.0))
        targets.add(model.target_network)
    assert targets == {"none", "ema"}


WIDTH_COSTS = {64: 0.4, 128: 1.0, 192: 2.1, 256: 3.6}


@pytest.mark.parametrize(("entry", "cost"), [("Humanoid-v4", 1.5), ("Hopper-v4", 0.4 * 1.5)])
def test_a_trial_costs_a_quarter_to_twice_of_its_entry(entry: str, cost: float) -> None:
    study = study_of(**yaml.safe_load(hyperparams_path("redq_sac").read_text())[entry])
    widths = set()
    for _ in range(100):
        drawn = sample("redq_sac", study.ask(), NO_HER)
        parts = drawn["policy_kwargs"]
        updates = drawn["gradient_steps"] * drawn["batch_size"] / 256 * (1 + 1 / drawn["policy_delay"])
        assert 0.24 * cost <= parts["n_critics"] / 2 * WIDTH_COSTS[parts["width"]] * updates <= 2.05 * cost
        widths.add(parts["width"])
    assert widths == ({64, 128, 192, 256} if entry == "Humanoid-v4" else {64, 128})


def test_optuna_takes_the_conditional_ranges() -> None:
    sampler = optuna.samplers.TPESampler(n_startup_trials=5, seed=0, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.set_user_attr("policy", "NormalizedMlpPolicy")
    study.set_user_attr("gradient_steps", "1")
    for number in range(20):
        trial = study.ask()
        sample("redq_sac", trial, NO_HER)
        study.tell(trial, float(number % 7))
    # A reloaded trial has nothing but these
    stored = study.trials[3].params
    arguments = ZOO_ALGORITHMS["redq_sac"].converter(stored)
    assert arguments["policy_kwargs"]["width"] == arguments["policy_kwargs"]["actor_width"] == stored["width"]
    assert arguments["tau"] == stored.get("tau", 0.005)

"""What is found out about an experiment before it runs."""

import pytest

from sb3_ext.experiments import ExperimentError, load_experiment
from sb3_ext.experiments.rehearsal import rehearse
from sb3_ext.experiments.worker import as_words


def rehearse_file(path):
    rehearse(path, load_experiment(path).runs)


def test_what_can_be_trained_is_let_through_and_leaves_nothing(write_experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_experiment()
    before = sorted(tmp_path.rglob("*"))
    rehearse_file(path)
    assert sorted(tmp_path.rglob("*")) == before and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"dict(dueling=True)"', '"dict(nett_arch=[1])"', "did you mean policy_kwargs=dict(net_arch=[1])?"),
        ('"dict(dueling=True)"', '"dict(net_arch=[1"', "SyntaxError: "),
        ('policy_kwargs: "dict(dueling=True)"', "callback: no.such.Callback", "No module named 'no'"),
        ('policy_kwargs: "dict(dueling=True)"', "replay_buffer_class: Nope", "name 'Nope' is not defined"),
        ('policy_kwargs: "dict(dueling=True)"', "policy: MlpPolicx", "policy='MlpPolicx' is not one of 'MlpPolicy'"),
        ('policy_kwargs: "dict(dueling=True)"', "target_clip: -1", "ValueError: target_clip=-1"),
        ('hyperparams: {policy_kwargs: "dict(dueling=True)"}', "env_kwargs: {nope: 1}", "keyword argument 'nope'"),
        ("[CartPole-v1]", "[Pendulum-v1]", "variants.stock: dqn cannot be made for Pendulum-v1: AssertionError"),
    ],
)
def test_what_cannot_be_made_is_named_with_file_and_variant(write_experiment, old, new, message):
    path = write_experiment()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ExperimentError) as caught:
        rehearse_file(path)
    assert str(caught.value).startswith(f"{path}: variants.") and message in str(caught.value)


def test_hyperparameters_of_rl_zoo3_are_part_of_it(write_experiment):
    path = write_experiment()
    path.write_text(path.read_text().replace("base: none", "base: zoo"))
    rehearse_file(path)
    path.write_text(path.read_text().replace("learning_starts: 50", "batch_size: 64, gradient_steps: many"))
    with pytest.raises(ExperimentError, match=r"variants\.\w+: .*gradient_steps"):
        rehearse_file(path)


def test_values_are_written_as_rl_zoo3_evaluates_them() -> None:
    values = {"a": float("inf"), "b": {"c": [-float("inf"), 1e-3, "x"], 2: None}, "d": True, "e": []}
    words = as_words(values)
    assert words[0] == "a:float('inf')"
    assert {word.partition(":")[0]: eval(word.partition(":")[2], {}) for word in words} == values

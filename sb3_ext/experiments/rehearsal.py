"""Before a grid starts: each of its models is made once, so that what cannot be trained is known at once."""

import argparse
import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import yaml

from sb3_ext.experiments.grid import ExperimentError, Run
from sb3_ext.zoo import register


def rehearse(path: Path, runs: Iterable[Run]) -> None:
    """
    Make environment, wrappers, callbacks and model of each variant in each environment, and throw them away. Names of
    parameters are known to be right by then (:func:`load_experiment`), their values are not.

    :param path: of the experiment file
    :param runs: that are to be trained; one seed of them is tried
    :raises ExperimentError: naming variant and environment, if a model cannot be made
    """
    register()
    for run in {(run.variant, run.env): run for run in runs}.values():
        try:
            # What is printed and warned of here is in the run's own output once more
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                with tempfile.TemporaryDirectory() as folder:
                    _make(run, Path(folder))
        except (Exception, SystemExit) as error:
            problem = f"{run.algo} cannot be made for {run.env}: {type(error).__name__}: {error}"
            raise ExperimentError(path, f"variants.{run.variant}", problem) from error


def _make(run: Run, folder: Path) -> None:
    """
    :param run: of which the model is made, on the CPU, by what rl_zoo3 would make it with
    :param folder: for rl_zoo3's files
    """
    from rl_zoo3.exp_manager import ExperimentManager

    config = folder / "hyperparams.yml"
    entry = {"n_timesteps": run.n_timesteps, **run.base_hyperparams, **run.hyperparams}
    config.write_text(yaml.safe_dump({run.env: entry}), encoding="utf-8")
    manager = ExperimentManager(
        argparse.Namespace(),
        run.algo,
        run.env,
        str(folder),
        n_timesteps=run.n_timesteps,
        eval_freq=-1,
        env_kwargs=run.env_kwargs,
        seed=run.seed,
        verbose=0,
        device="cpu",
        config=str(config),
    )
    made = manager.setup_experiment()
    assert made is not None  # it is for searches only
    model, _ = made
    assert model.env is not None
    model.env.close()

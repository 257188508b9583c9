"""Files and parameters of a model: what every algorithm of this package does in another way than SB3."""

import io
import pathlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_ext.buffers.saving import load_replay_buffer, save_replay_buffer
from sb3_ext.checks import check_device, check_mapping
from sb3_ext.common.arguments.keywords import check_names_of_load, explain_model_keywords
from sb3_ext.common.saved.complete import model_path
from sb3_ext.common.saved.state import Parameters, load_with_arguments, restore_parameters, with_learned_values
from sb3_ext.common.saved.writer import WrittenBy
from sb3_ext.files import complete_file
from sb3_ext.keywords import checks_keywords

SelfSavedModel = TypeVar("SelfSavedModel", bound="SavedModel")


class SavedModel(OffPolicyAlgorithm):
    """
    Mix-in for SB3's off-policy algorithms, to be put before the SB3 class.

    Files are complete or absent, and name the class that wrote them. Arguments given to ``load()`` hold. Parameters
    include what is learned outside the networks.
    """

    # Arguments that something learned or scheduled starts from. Given to `load()` they prevail over the saved state
    _starting_arguments: ClassVar[tuple[str, ...]] = ()
    # Saved with the model, so that no other algorithm loads it
    _written_by: WrittenBy | None = None

    @checks_keywords(explain_model_keywords)
    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model so that an interruption leaves an earlier file of the same name intact.

        :param path: file name (``.zip`` is added if it has no suffix), or an open file
        :param exclude: names of attributes that are not saved
        :param include: names of attributes that are saved although they are not by default
        """
        self._written_by = WrittenBy.of(type(self))
        with complete_file(model_path(path)) as file:
            super().save(file, exclude, include)

    @classmethod
    def load(
        cls: type[SelfSavedModel],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSavedModel:
        """
        Load a model as SB3 does. Arguments of the constructor may be given by name, and prevail over the saved state.

        What is learned or scheduled goes on if the argument that it starts from is the saved one, or is not given.

        :param custom_objects: replaces saved objects; arguments of the constructor hold here too
        :raises ValueError: if an argument cannot hold, because the saved networks are others
        :raises TypeError: if there is neither an argument of the constructor nor a saved attribute of a given name

        The other parameters are those of SB3.
        """
        check_device("device", device)
        if custom_objects is not None:
            check_mapping("custom_objects", custom_objects)
        check_names_of_load(cls, path, kwargs)
        load = partial(
            super().load, env=env, device=device, print_system_info=print_system_info, force_reset=force_reset
        )
        return load_with_arguments(cls, load, path, custom_objects, kwargs)

    def get_parameters(self) -> Parameters:
        """Return SB3's dictionary. It contains learned variables too, each in the entry of its optimizer."""
        return with_learned_values(self, super().get_parameters())

    def set_parameters(
        self,
        load_path_or_dict: str | pathlib.Path | TensorDict | Parameters,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Set parameters as SB3 does, including learned variables. What is refused changes nothing.

        :param load_path_or_dict: a dictionary from :meth:`get_parameters`, or the file of a saved model
        :param exact_match: whether an entry for each network and optimizer is required
        :raises ValueError: if the names do not fit the model
        """
        restore_parameters(self, super().set_parameters, load_path_or_dict, exact_match, device)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay buffer so that an interruption leaves an earlier file of the same name intact.

        :param path: file name (``.pkl`` is added if it has no suffix), or an open file
        """
        save_replay_buffer(self, path)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer; if that fails, the model keeps its present one.

        :param path: file name, or an open file
        :param truncate_last_traj: whether the last episode of a ``HerReplayBuffer`` counts as finished
        :raises ValueError: if the file cannot be read, or its buffer does not fit the model
        :raises OSError: if there is no such file
        """
        load_replay_buffer(self, path, truncate_last_traj)

    def _learned_variables(self) -> dict[str, str]:
        """Hook: return the names of learned variables outside the networks, by the names of their optimizers."""
        return {}

    def _learned_tensors(self) -> dict[str, th.Tensor]:
        """Return the learned variables by their names."""
        return {name: getattr(self, name) for name in self._learned_variables().values()}

    def _plain_state(self) -> dict[str, Any]:
        """Hook: return what else determines the next update, as dictionaries, lists and Python's numbers."""
        return {}

    def _set_plain_state(self, state: Mapping[str, Any]) -> None:
        """Hook: continue from what :meth:`_plain_state` returned. Parts may be missing."""

    def _after_parameters(self, params: Mapping[str, Any]) -> None:
        """Hook: set what depends on parameters that have just been set."""

    def _continues_from(self, name: str, value: Any) -> bool:
        """Hook: tell whether an argument given to ``load()`` is the one from which the saved state was started."""
        return bool(getattr(self, name) == value)

    def _state_for_arguments(self, state: Parameters, changed: set[str]) -> Parameters:
        """
        Hook: return the part of a saved state that arguments given to ``load()`` leave valid.

        :param state: parameters, with the names in :meth:`get_parameters`
        :param changed: those of ``_starting_arguments`` whose values are new
        """
        return state

"""Weights that a model's files lack. Transformers fills them with random numbers and only logs it.

A file of another model, or with other names, so gives a model that loads, runs, and knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass
class MissingWeights:
    """Models that were loaded, each with the names of the parameters that its files lack.

    Attributes:
        role: what errors call the model, such as "teacher model".
        name: the model as the recipe names it.
    """

    role: str
    name: str
    of_models: list[tuple[torch.nn.Module, list[str]]] = field(default_factory=list)

    def refuse_used(self, output: Callable[[], torch.Tensor]) -> None:
        """Refuses a model whose output depends on such a parameter; those that take no part do no harm.

        Args:
            output: computes what the model is loaded for, from any text, with gradients.

        Raises:
            InputError: it names some of the parameters.
        """
        import torch

        parameters = {
            key: parameter
            for model, keys in self.of_models
            for key, parameter in model.named_parameters()
            if key in keys and parameter.requires_grad
        }
        if not parameters:
            return
        with torch.enable_grad():
            gradients = torch.autograd.grad(output().float().sum(), list(parameters.values()), allow_unused=True)
        used = [key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
        if used:
            more = f" and {len(used) - 3} more" if len(used) > 3 else ""
            raise InputError(
                f"{self.role} '{self.name}' lacks weights: its files hold nothing for {', '.join(used[:3])}{more}, "
                "which would be random numbers. Expected the files of one whole model of this kind. Download it again, "
                "or name the model that these weights were saved with."
            )


@contextmanager
def noted_missing_weights(role: str, name: str) -> Iterator[MissingWeights]:
    """Notes what transformers reports of the models that are loaded inside; role and name are for errors.

    Raises:
        InputError: weights have other shapes than the configuration says.
    """
    from transformers import modeling_utils

    noted, report = MissingWeights(role, name), modeling_utils.log_state_dict_report

    def note(
        model: Any,
        pretrained_model_name_or_path: Any,
        ignore_mismatched_sizes: bool,
        loading_info: Any,
        logger: Any = None,
    ) -> None:
        if missing := loading_info.missing_and_mismatched():
            noted.of_models.append((model, sorted(missing)))
        if loading_info.mismatched_keys and not ignore_mismatched_sizes:
            key, stored, wanted = min(loading_info.mismatched_keys)
            raise InputError(
                f"{role} '{name}' has weights of another shape than its config.json says: {key} is "
                f"{tuple(stored)} and should be {tuple(wanted)}. Its files are of two models. Download it again."
            )
        report(model, pretrained_model_name_or_path, ignore_mismatched_sizes, loading_info, logger)

    modeling_utils.log_state_dict_report = note
    try:
        yield noted
    finally:
        modeling_utils.log_state_dict_report = report

"""LoRA adapters of the vLLM engine: looked at before the model is loaded, since vLLM would say so after minutes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError
from cluster.machines.hub import cache_alone_if_silent, refuse_revision

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM reserves room for
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_READS_HIDDEN = re.compile(r"\.(?:q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as peft saves it.

    Attributes:
        folder: where it lies.
        rank: of its matrices.
        base: the model that it was trained on, as its training named it; None if it does not say.
    """

    folder: Path
    rank: int
    base: str | None

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Reads the configuration of an adapter, and checks that vLLM can serve it.

        Raises:
            InputError: it is none, has no safetensors, or is of a kind that vLLM does not serve.
        """
        where = f"generation.lora: {folder / CONFIG}"
        try:
            config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{where} does not exist. Expected an adapter's folder, as peft saves it.") from None
        except ValueError as error:
            raise InputError(f"{where} is no JSON ({error}).") from None
        if not (folder / WEIGHTS).is_file():
            raise InputError(
                f"generation.lora: {folder} holds no {WEIGHTS}. A pickle (adapter_model.bin) can run any program when "
                "it is read: load the adapter with peft elsewhere, and save it again."
            )
        if config.get("peft_type") != "LORA":
            raise InputError(f"{where}: `peft_type` is {config.get('peft_type')!r}; the vLLM engine serves LORA alone.")
        rank = config.get("r")
        if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
            raise InputError(f"{where}: `r`, the rank, is {rank!r}; expected a whole number from 1 to {RANKS[-1]}.")
        for field, none in (("use_dora", False), ("modules_to_save", None), ("bias", "none")):
            if config.get(field, none) not in (none, [], False):
                raise InputError(
                    f"{where}: `{field}` is {config[field]!r}, which vLLM does not serve. Merge the adapter into its "
                    "model (peft's merge_and_unload), and name the merged folder as generation.model."
                )
        return cls(folder, rank, config.get("base_model_name_or_path") or None)

    @property
    def reserved_rank(self) -> int:
        """The least rank that vLLM reserves room for and that holds this one."""
        return next(rank for rank in RANKS if rank >= self.rank)

    def request(self) -> LoRARequest:
        """What tells vLLM to use it."""
        from vllm.lora.request import LoRARequest

        return LoRARequest("adapter", 1, str(self.folder))

    def refuse_other_base(self, model: str, config: Mapping[str, Any] | None) -> None:
        """Looks whether the adapter is one of this model.

        Two ids of the hub are compared as names. The name of a folder says little, since folders move: there the
        shapes are compared.

        Args:
            model: as the recipe names it.
            config: of the model; None if it is not known yet.

        Raises:
            InputError: it belongs to another model.
        """
        base = f"names the base model '{self.base}'" if self.base else "names no base model"
        said = f"generation.lora: {self.folder / CONFIG} {base}"
        remedy = "Name the adapter's own base as generation.model, or another adapter."
        if self.base and not _is_path(self.base) and not _is_path(model) and self.base.lower() != model.lower():
            raise InputError(f"{said}, and generation.model is '{model}'. {remedy}")
        if config is None:
            return
        text = {**config, **(config.get("text_config") or {})}
        hidden, layers = text.get("hidden_size"), text.get("num_hidden_layers")
        for name, shape in self._shapes().items():
            layer = _LAYER.search(name)
            if hidden and _READS_HIDDEN.search(name) and shape[-1] != hidden:
                problem = f"`{name}` reads {shape[-1]} numbers, and a token of '{model}' has {hidden}"
            elif layers and layer and int(layer[1]) >= layers:
                problem = f"`{name}` is of layer {layer[1]}, and '{model}' has {layers} layers"
            else:
                continue
            raise InputError(f"{said}, and does not fit generation.model: {problem}. {remedy}")

    def _shapes(self) -> dict[str, list[int]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.folder / WEIGHTS, "numpy") as file:
                return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118, file is no dict
        except SafetensorError as error:
            raise InputError(
                f"generation.lora: {self.folder / WEIGHTS} cannot be read ({error}). Copy the adapter again."
            ) from error


def adapter_folder(name: str, revision: str | None = None) -> Path:
    """The folder of an adapter; one of the hub is fetched, without anything but its configuration and safetensors.

    Args:
        name: a folder, or an id of the hub.
        revision: commit, branch or tag of an id; None: its main branch.

    Raises:
        InputError: the hub or its cache has no such adapter, or a folder shall have a revision.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        refuse_revision(name, revision, "generation.lora_revision")
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with cache_alone_if_silent(name, revision):
            return Path(snapshot_download(name, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"generation.lora: neither the hub nor its local cache has the adapter '{name}'"
            f"{f' of revision {revision!r}' if revision else ''} "
            f"({' '.join(str(error).split())[:200]}). Expected a folder, or an id of the hub."
        ) from error


def _is_path(name: str) -> bool:
    """Whether a name is no id of the hub; a folder beside the recipe may have a name without a slash."""
    return name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).exists()

"""A language model's files, read without its weights in memory: configuration, tokenizer, headers of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.machines.hub import cache_alone_if_silent
from cluster.machines.vllm import first_sentence
from generation.engines.models import model_folder
from generation.prompting import STYLES, Style

_NAMED = 3  # weights that an error names


@dataclass(frozen=True)
class ModelFiles:
    """What was read of a language model's files.

    Attributes:
        tokenizer: of transformers.
        context: tokens that the model holds, as its configuration and `max_model_len` say; None: neither says it.
        weights: how many its files hold; None: they were not compared with what the architecture needs, since they are
            not on this machine, are quantised, or transformers does not know the architecture.
    """

    tokenizer: Any
    context: int | None
    weights: int | None

    @property
    def styles(self) -> tuple[Style, ...]:
        """The styles of prompts that the tokenizer can write."""
        return STYLES if getattr(self.tokenizer, "chat_template", None) else ("completion",)


def read_files(name: str, revision: str | None, max_model_len: int | None, trust_remote_code: bool) -> ModelFiles:
    """Reads the files of a language model.

    Args:
        name: folder, GGUF file (which is converted first, once on each machine) or id of the hub.
        revision: commit, branch or tag of an id; None: its main branch.
        max_model_len: the recipe's limit of tokens; None: it has none.
        trust_remote_code: whether the model's own code may run.

    Raises:
        InputError: a file cannot be read, or the files lack weights that the architecture needs.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    folder = model_folder(name, revision)
    where = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    with cache_alone_if_silent(folder, revision):
        return _read(name, folder, max_model_len, where)


def _read(name: str, folder: str, max_model_len: int | None, where: dict[str, Any]) -> ModelFiles:
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, **where)
    except (OSError, ValueError, KeyError) as error:
        if not _is_of_unknown_kind(error):
            raise _unreadable(name, "configuration", error) from error
        config = None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise _unreadable(name, "tokenizer", error) from error
    limits = [max_model_len]
    if config is not None:
        limits.append(getattr(config.get_text_config(), "max_position_embeddings", None))
    known = [limit for limit in limits if limit]
    weights = None if config is None else _weights(name, folder, config, where)
    return ModelFiles(tokenizer, min(known) if known else None, weights)


def _is_of_unknown_kind(error: Exception) -> bool:
    return isinstance(error, ValueError) and "does not recognize this architecture" in str(error)


def _unreadable(name: str, part: str, error: Exception) -> InputError:
    return InputError(
        f"generation.model: the {part} of '{name}' cannot be read: {first_sentence(error)} Expected a folder with a "
        "language model (config.json, tokenizer.json, *.safetensors), a .gguf file, or an id of the hub."
    )


def _weights(name: str, folder: str, config: Any, where: dict[str, Any]) -> int | None:
    """How many weights the files hold, if they hold all that the architecture needs; None if that cannot be compared.

    Only the headers of the files are read: the model stands on the device "meta", which has no memory.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if getattr(config, "quantization_config", None):
        return None  # its weights have other names, which the quantisation's own package knows
    loaded: Any
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, config=config, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True,
            local_files_only=True, use_safetensors=True, **where,
        )  # fmt: skip
    except SafetensorError as error:
        raise _unreadable(name, "weights", error) from error
    except OSError as error:
        if Path(folder).is_dir() and not list(Path(folder).glob("consolidated*.safetensors")):  # Mistral's own format
            raise _unreadable(name, "weights", error) from error
        return None  # not on this machine
    except (ValueError, ImportError):
        return None  # an architecture that only vLLM knows
    model, found = loaded
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise InputError(
            f"generation.model: the files of '{name}' hold nothing for {_some(lacking)}, which "
            f"{type(model).__name__} needs. Expected the files of one whole language model. Download it again, or name "
            "the model that these weights were saved with."
        )
    other = sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"])
    if other:
        raise InputError(
            f"generation.model: config.json of '{name}' describes other shapes than its files hold, for {_some(other)}."
            " Expected the configuration that these weights were saved with."
        )
    return len(model.state_dict())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

"""Model folders of somebody who means harm: what runs when they are opened carelessly leaves a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

_CODE = """
from pathlib import Path
Path({trace!r}).write_text("was run")
from transformers import PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.bert import BertModel, BertForSequenceClassification, BertConfig
class OwnConfig(BertConfig):
    model_type = "trap"
class OwnModel(BertModel):
    config_class = OwnConfig
class OwnRanker(BertForSequenceClassification):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
class OwnModule:
    pass
"""


class Touch:
    """A pickle of this writes a file when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.trace), "w")


def pickled(model: Path, folder: Path, trace: Path) -> Path:
    """A copy of a model in which every file of weights is a pickle instead."""
    import torch

    shutil.copytree(model, folder)
    for weights in list(folder.rglob("*.safetensors")):
        torch.save({"weight": Touch(trace)}, weights.with_name("pytorch_model.bin"))
        weights.unlink()
    return folder


def with_code(model: Path, folder: Path, trace: Path) -> Path:
    """A copy of a model that wants its own configuration, model and tokenizer classes to be used."""
    shutil.copytree(model, folder)
    for config in [path for path in folder.rglob("config.json") if "model_type" in path.read_text()]:
        (config.parent / "trap.py").write_text(_CODE.format(trace=str(trace)))
        names = {"AutoConfig": "OwnConfig", "AutoModel": "OwnModel", "AutoModelForSequenceClassification": "OwnRanker",
                 "AutoModelForCausalLM": "OwnModel"}  # fmt: skip
        maps = {auto: f"trap.{own}" for auto, own in names.items()}
        change(config, model_type="trap", auto_map=maps)
        change(config.with_name("tokenizer_config.json"), auto_map={"AutoTokenizer": [None, "trap.OwnTokenizer"]})
    return folder


def with_module(model: Path, folder: Path, trace: Path) -> Path:
    """A copy of a sentence-transformer with one module more, of its own."""
    shutil.copytree(model, folder)
    (folder / "trap.py").write_text(_CODE.format(trace=str(trace)))
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": len(modules), "name": "own", "path": "", "type": "trap.OwnModule"})
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def change(file: Path, **fields: Any) -> None:
    """Sets fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))

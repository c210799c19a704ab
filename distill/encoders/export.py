"""Export of a trained student: a folder that `SentenceTransformer(path)` loads, with prompts, lengths and a model card.

Every number of the card comes from the trainer's record or from the model itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.machines.private_folder import share_as_folder
from distill.encoders.reading import Reading
from distill.encoders.towers import tower
from distill.settings.encoders import StudentSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LIBRARIES = ("listwise", "sentence-transformers", "transformers", "torch", "deepspeed")
CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
{base_model}tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- dense-retrieval
- distillation
---

# {name}

`{base}`, specialised to one corpus by listwise distillation: synthetic queries for the corpus, candidate passages
scored by teachers, and a student trained to order each list as they do (the recipe of
[arXiv 2505.19274](https://arxiv.org/abs/2505.19274)). Whether it is better than its base on judged queries is a
question of measurement: see `evaluation/metrics.json` of the run.

## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["a query"])
passages = model.encode_document(["title and text of a passage"])
scores = model.similarity(queries, passages)
```

A passage is its title and its text, separated by a space.

| | |
|---|---|
| dimensions | {dimension} |
| similarity | {similarity} |
| prompt of queries | {query_prompt} |
| prompt of passages | {passage_prompt} |
| queries in training cut at | {settings.max_query_tokens} tokens |
| passages cut at | {settings.max_passage_tokens} tokens |

## Training

{outcome}| | |
|---|---|
{facts}

Made with {libraries}.
"""


def save(model: SentenceTransformer, path: str | Path, settings: StudentSettings, facts: Mapping[str, Any]) -> None:
    """Writes the model folder under a temporary name and renames it, so it is never half-written.

    An earlier folder of that name is replaced.

    Args:
        model: the trained student, with the prompts it was trained with.
        path: folder to write.
        settings: settings of the student.
        facts: steps, losses and sizes that training reports, also as nested mappings; they become a table of the card.
            The sentence `outcome` stands before the table.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for task in ("query", "document"):
        if not (reading := Reading.of(model, task, settings)).is_bag:
            tower(model, task)[0].max_seq_length = reading.max_tokens
    model.save(str(partial), safe_serialization=True, create_model_card=False)
    (partial / "README.md").write_text(card(model, path.name, settings, facts), encoding="utf-8")
    share_as_folder(partial)
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)


def card(model: SentenceTransformer, name: str, settings: StudentSettings, facts: Mapping[str, Any]) -> str:
    """Returns the model card in Markdown."""
    on_hub = not Path(settings.model).expanduser().exists()
    return CARD.format(
        name=name,
        base=settings.model if on_hub else Path(settings.model).name,
        base_model=f"base_model: {settings.model}\n" if on_hub else "",
        dimension=model.get_embedding_dimension(),
        similarity=getattr(model.similarity_fn_name, "value", model.similarity_fn_name),
        query_prompt=_code(model.prompts.get("query")),
        passage_prompt=_code(model.prompts.get("document")),
        settings=settings,
        outcome=f"{facts['outcome']}\n\n" if "outcome" in facts else "",
        facts="\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in _rows(facts)),
        libraries=", ".join(f"{library} {version(library)}" for library in LIBRARIES),
    )


def _rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if not prefix and key == "outcome":
            continue
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{key}, ")
        elif isinstance(value, float):
            yield f"{prefix}{key}", f"{value:.4g}"
        elif isinstance(value, str) and Path(value).is_absolute():
            continue  # a path of the machine that trained the model is of no use to readers of the card
        elif value is not None:
            yield f"{prefix}{key}", str(value).replace("|", "\\|")


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "none"

"""The similarity of a query and a passage, as the model declares it: cosine or inner product.

Everything in Listwise multiplies vectors: search, teachers, losses, evaluation. So a model whose similarity is the
cosine gets vectors of length 1 here, once, and a model of inner products keeps its lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import InputError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model's embeddings have length 1."""
    return any(type(module).__name__ == "Normalize" for module in model)


def set_similarity(model: SentenceTransformer, name: str, normalize: bool | None) -> None:
    """Makes inner products of the model's embeddings its similarity.

    Args:
        model: the encoder.
        name: the model as the recipe names it.
        normalize: whether embeddings have length 1; None: as the similarity of the model asks for. The other value
            changes what the model declares, too.

    Raises:
        InputError: the similarity is neither the cosine nor the inner product.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    declared = str(model.similarity_fn_name)
    if declared not in ("cosine", "dot"):
        raise InputError(
            f"model '{name}' compares embeddings by their {declared} distance. Expected a model of cosines or inner "
            "products (similarity_fn_name in its config_sentence_transformers.json). Name another model."
        )
    wanted = declared == "cosine" if normalize is None else normalize
    if wanted and not normalizes(model):
        model.append(Normalize())
    if normalize is False:
        for key in [key for key, module in model.named_children() if type(module).__name__ == "Normalize"]:
            del model[list(model._modules).index(key)]
    if normalize is not None:
        model.similarity_fn_name = "cosine" if normalize else "dot"


def cut(embeddings: torch.Tensor, dimensions: int | None, normalized: bool) -> torch.Tensor:
    """The first numbers of `(n, d)` embeddings, `(n, dimensions)`, normalised again where whole ones are.

    The cosine of cut embeddings is that of sentence-transformers' `truncate_dim`.
    """
    import torch

    if dimensions is None or dimensions >= embeddings.shape[1]:
        return embeddings
    first = embeddings[:, :dimensions]
    return torch.nn.functional.normalize(first, dim=1) if normalized else first

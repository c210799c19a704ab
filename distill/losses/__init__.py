"""Losses over scored lists, in float32, and their gradients for a whole global batch.

Each loss of one list is a pure function in `listwise` or `pairwise`, InfoNCE over the batch is in `contrastive`, and
`batch` puts them together. Letters: B queries of a block, L slots of a list, U unique passages of the global batch.
"""

from distill.losses.batch import LIST_LOSSES, LossSettings, LossSums, list_loss, loss_and_gradients
from distill.losses.contrastive import info_nce, no_negatives
from distill.losses.listwise import kl_divergence, lambda_loss
from distill.losses.pairwise import margin_mse, ranknet

__all__ = [
    "LIST_LOSSES",
    "LossSettings",
    "LossSums",
    "info_nce",
    "kl_divergence",
    "lambda_loss",
    "list_loss",
    "loss_and_gradients",
    "margin_mse",
    "no_negatives",
    "ranknet",
]

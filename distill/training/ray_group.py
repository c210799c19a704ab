"""The process group of ranks that Ray Train places: Ray tells them who they are, and they join by themselves.

Ray's own configuration would open torch's store on all interfaces, before a rank can choose its address.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ray.train._internal.utils import get_address_and_port
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend


def _set_meeting_place(address: str, port: int) -> None:
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)


class _OwnGroupBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Sets torchrun's variables on every rank; see `distill.training.process_group.join_ranks`."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_meeting_place, address=address, port=port)
        worker_group.execute(_set_torch_distributed_env_vars)


@dataclass
class OwnGroup(TorchConfig):
    """Ray Train's configuration of torch, without a process group."""

    @property
    def backend_cls(self) -> type[_OwnGroupBackend]:
        """What Ray calls when the ranks are placed."""
        return _OwnGroupBackend

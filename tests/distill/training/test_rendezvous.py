"""Ranks find each other on the address that they are told, and the store is served on no other interface."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import psutil
import pytest
import torch.distributed as dist

from distill.training import rendezvous
from tests.distill.ranks import free_port, on_ranks
from tests.network import addresses


def listening(rank: int, world_size: int) -> list[str]:
    """Addresses on which this rank listens while the group works."""
    import torch

    from distill.training.process_group import join_ranks

    os.environ.pop("GLOO_SOCKET_IFNAME")  # what the test's own ranks are told
    join_ranks("cpu")
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == world_size
    found = [one.laddr.ip for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
    dist.barrier()
    dist.destroy_process_group()
    return found


def test_on_one_machine_ranks_listen_on_loopback_alone():
    found = on_ranks(listening, 2)
    assert found[0], "rank 0 serves the store"
    assert {address for of_rank in found for address in of_rank} == {"127.0.0.1"}


def tell_rank_0(monkeypatch: pytest.MonkeyPatch, host: str, **variables: str) -> int:
    """Sets what a launcher tells rank 0 of two; returns the port of the store."""
    port = free_port()
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port), **variables}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return port


def serve(monkeypatch: pytest.MonkeyPatch, host: str) -> tuple[dist.Store, int]:
    port, real = tell_rank_0(monkeypatch, host), dist.TCPStore
    monkeypatch.setattr(
        rendezvous.dist, "TCPStore", lambda *given, **named: real(*given, **named | {"wait_for_workers": False})
    )
    return rendezvous.env_store(timedelta(seconds=10)), port


@pytest.fixture
def listens_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The address on which the socket that the store is given listens."""
    monkeypatch.setattr(
        rendezvous.dist, "TCPStore", lambda *_, master_listen_fd, **__: socket.socket(fileno=master_listen_fd)
    )

    def find(host: str, **variables: str) -> str:
        tell_rank_0(monkeypatch, host, **variables)
        with rendezvous.env_store(timedelta(seconds=5)) as listener:
            return listener.getsockname()[0]

    return find


def answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except OSError:
        return False


def test_the_store_answers_on_the_address_that_ranks_are_told_and_on_no_other(monkeypatch):
    outer = addresses()
    if not outer:
        pytest.skip("NOT TRIED: this machine has no address beside loopback")
    store, port = serve(monkeypatch, "127.0.0.1")
    store.set("weights", "secret")
    assert answers("127.0.0.1", port) and not answers(outer[0], port)
    del store
    store, port = serve(monkeypatch, outer[0])
    assert answers(outer[0], port) and not answers("127.0.0.1", port)
    del store


def test_a_name_that_this_machine_alone_takes_for_loopback_is_served_on_all_interfaces(monkeypatch, caplog, listens_on):
    real = socket.getaddrinfo

    def resolve(host, *rest, **more):
        return real("127.0.0.1" if host == "node1" else host, *rest, **more)

    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", resolve)
    assert listens_on("node1") == "0.0.0.0"
    assert "node1 is a loopback address on this machine" in caplog.text
    assert listens_on("node1", SLURM_NNODES="1") == listens_on("node1", LOCAL_WORLD_SIZE="2") == "127.0.0.1"


def test_an_address_of_a_gateway_falls_back_to_all_interfaces(caplog, listens_on):
    assert listens_on("203.0.113.7") == "0.0.0.0"
    assert "cannot listen on 203.0.113.7" in caplog.text

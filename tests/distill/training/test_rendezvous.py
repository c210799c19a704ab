"""Ranks find each other on the address that they are told, and the store is served on no other interface."""

from __future__ import annotations

import os
import socket
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


def serve(monkeypatch: pytest.MonkeyPatch, host: str, **variables: str) -> tuple[dist.Store, int]:
    port = free_port()
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    real = dist.TCPStore
    monkeypatch.setattr(
        rendezvous.dist, "TCPStore", lambda *given, **named: real(*given, **named | {"wait_for_workers": False})
    )
    return rendezvous.env_store(timedelta(seconds=10)), port


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


def test_a_name_that_this_machine_alone_takes_for_loopback_is_served_on_all_interfaces(monkeypatch, caplog):
    real = socket.getaddrinfo

    def resolve(host, *rest, **more):
        return real("127.0.0.1" if host == "node1" else host, *rest, **more)

    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        rendezvous.dist, "TCPStore", lambda *_, master_listen_fd, **__: socket.socket(fileno=master_listen_fd)
    )
    monkeypatch.setenv("RANK", "0")
    for variables, expected in (
        ({}, "0.0.0.0"),
        ({"SLURM_NNODES": "1"}, "127.0.0.1"),
        ({"LOCAL_WORLD_SIZE": "2"}, "127.0.0.1"),
    ):
        for name in ("LOCAL_WORLD_SIZE", "SLURM_NNODES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "node1",
            "MASTER_PORT": str(free_port()),
            **variables,
        }.items():
            monkeypatch.setenv(name, value)
        with rendezvous.env_store(timedelta(seconds=5)) as listener:
            assert listener.getsockname()[0] == expected
    assert "node1 is a loopback address on this machine" in caplog.text


def test_an_address_of_a_gateway_falls_back_to_all_interfaces(monkeypatch, caplog):
    monkeypatch.setattr(
        rendezvous.dist, "TCPStore", lambda *_, master_listen_fd, **__: socket.socket(fileno=master_listen_fd)
    )
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "203.0.113.7",
        "MASTER_PORT": str(free_port()),
    }.items():
        monkeypatch.setenv(name, value)
    with rendezvous.env_store(timedelta(seconds=5)) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    assert "cannot listen on 203.0.113.7" in caplog.text

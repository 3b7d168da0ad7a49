"""The cluster from flags, variables and schedulers; flags that say too little or contradict each other are refused."""

from __future__ import annotations

import pytest

from jaxdist import cluster
from jaxdist.errors import UsageError


def test_one_process_without_anything():
    assert cluster.detect(environ={}) == cluster.Cluster()


def test_jax_variables_and_flags_over_them():
    env = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    assert cluster.detect(environ=env) == cluster.Cluster("worker", 2, 4, "a:1")
    assert cluster.detect(environ=env, process_id=3).process_id == 3


def test_slurm_step_but_not_an_interactive_allocation():
    env = {"SLURM_JOB_ID": "4097", "SLURM_NTASKS": "3", "SLURM_PROCID": "0"}
    assert cluster.detect(environ=env).num_processes == 1
    env |= {"SLURM_STEP_NODELIST": "node[03-05,09]", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "1"}
    assert cluster.detect(environ=env) == cluster.Cluster("worker", 1, 3, "node03:61441", job="Slurm job 4097")


def test_open_mpi():
    env = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1,172.17.0.1:48887",
    }
    assert cluster.detect(environ=env) == cluster.Cluster("worker", 1, 2, "10.0.0.1:61440")


def test_kubernetes_indexed_job():
    env = {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "COORDINATOR_ADDRESS": "train-0.train:8476",
        "NUM_PROCESSES": "5",
        "JOB_COMPLETION_INDEX": "4",
    }
    assert cluster.detect(environ=env) == cluster.Cluster("worker", 4, 5, "train-0.train:8476")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_processes": 2, "process_id": 5, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "process_id": -1, "coordinator_address": "h:1"}, "ids are 0 to 1"),
        ({"num_processes": 2, "coordinator_address": "h:1"}, "--process_id"),
        ({"num_processes": 2, "process_id": 1}, "--coordinator_address"),
        ({"num_processes": 2, "process_id": 1, "coordinator_address": "h"}, "HOST:PORT"),
        ({"num_processes": 0}, "at least 1"),
    ],
)
def test_cluster_flags(flags, words):
    with pytest.raises(UsageError) as e:
        cluster.detect(environ={}, **flags)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("::1:4000", r"brackets, as in '\[::1\]:4000'"),
        ("fe80::1:4000", r"brackets, as in '\[fe80::1\]:4000'"),
        ("host:70000", "ports are 0 to 65535"),
        ("host", "is not HOST:PORT"),
    ],
)
def test_addresses_that_cannot_be(address, words):
    with pytest.raises(UsageError, match=words):
        cluster.detect(environ={}, num_processes=2, process_id=0, coordinator_address=address)
    with pytest.raises(UsageError, match=words):
        cluster.detect(environ={}, server_addresses=["good:1", address])


def test_an_ipv6_address_in_brackets():
    found = cluster.detect(environ={}, num_processes=2, process_id=0, coordinator_address="[::1]:4000")
    assert found.coordinator_address == "[::1]:4000"


def test_a_run_that_others_could_take_part_in_needs_a_token():
    run = {"coordinator_address": "10.0.0.1:1", "num_processes": 2, "process_id": 1, "environ": {}}
    with pytest.raises(UsageError, match=r"^--coordinator_address=10.0.0.1:1 can be reached .*JAXDIST_TOKEN"):
        cluster.detect(**run).check_secret()
    cluster.detect(**run, insecure=True).check_secret()
    cluster.detect(**run | {"environ": {"JAXDIST_TOKEN": "secret"}}).check_secret()
    cluster.detect(environ={}).check_secret()
    servers = {"server_addresses": ["127.0.0.1:1", "h1:1"], "environ": {}}
    for role in ({}, {"role": "evaluator"}, {"role": "server", "server_index": 0}):
        with pytest.raises(UsageError, match=r"^--server_addresses: h1:1 can be reached"):
            cluster.detect(**servers, **role).check_secret()


def test_ports_of_flags_are_inside_the_range():
    for flags in ({"coordinator_address": "h:7900"}, {"server_addresses": ("h:7800", "h:7900")}):
        of_the_run = cluster.Cluster(**flags)
        with pytest.raises(UsageError, match=r"the port of h:7900 is outside cluster.port_range=7800-7899"):
            of_the_run.check_ports("7800-7899")
        of_the_run.check_ports("7800-7900")
        of_the_run.check_ports("")
    cluster.Cluster().check_ports("7800-7899")

"""What a process proves of its run: a name, or its run directory, and the scheduler's job."""

from __future__ import annotations

import json

from jaxdist.cluster import Cluster, detect
from jaxdist.cluster.identity import caller, identity, own_name


def test_a_name_goes_before_the_run_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (
        identity(Cluster(), "", "out/a") == f"workdir={tmp_path}/out/a" == identity(Cluster(), "", f"{tmp_path}/out/a")
    )
    assert identity(Cluster(run_id="flag"), "key", "out") == "run_id=flag"
    assert identity(Cluster(), "key", "out") == "run_id=key"
    in_job = detect(environ={"SLURM_JOB_ID": "7"})
    assert identity(in_job, "", "/a") == "workdir=/a in Slurm job 7"
    assert detect(environ={"JAXDIST_RUN_ID": "x"}).run_id == "x"
    assert detect(environ={"JAXDIST_RUN_ID": "x"}, run_id="y").run_id == "y"


def test_each_caller_has_a_token_of_its_own():
    one, two = json.loads(caller("r\u00fcn", 3)), json.loads(caller("r\u00fcn", 3))
    assert one["run"] == "r\u00fcn" and one["process"] == 3 and one["name"] == own_name()
    assert one["token"] != two["token"] and caller("r\u00fcn", 3).isascii()

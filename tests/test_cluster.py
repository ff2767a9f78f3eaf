"What is sent to clusters, as far as it can be told without one: pins, files that exist, shell that parses, and what tasks inherit."
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from audioengram.lab.batch import Task, launch

ROOT = Path(__file__).resolve().parent.parent
SKY = yaml.safe_load((ROOT / "cluster/sky.yaml").read_text())
JOB = yaml.safe_load((ROOT / "cluster/rayjob.yaml").read_text())
PINS = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)", (ROOT / "cluster/requirements.txt").read_text(), re.M))


def test_pins_agree():
    extra = re.search(r'^cluster = \[(.*)\]', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert {re.sub(r"\[.*", "", name) for name in re.findall(r'"([^"]+)"', extra)} == PINS.keys() == {"ray", "s3fs", "gcsfs"}
    assert PINS["s3fs"] == re.search(r"^fsspec==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]


@pytest.mark.parametrize("part", ["setup", "run"])
def test_shell_parses(part): subprocess.run(["bash", "-n", "-c", SKY[part]], check=True)


def test_skypilots_own_ray_is_left_alone():
    assert "ray stop" not in SKY["run"] and "6380" not in SKY["run"] and SKY["run"].count("--block") == 2


def test_files_that_are_named_exist():
    named = re.findall(r"(?:cluster/[\w.]+|constraints\.txt)", SKY["setup"] + SKY["run"] + (ROOT / "cluster/Dockerfile").read_text() + JOB["spec"]["entrypoint"])
    assert {"cluster/rerun.py", "cluster/requirements.txt"} <= set(named) and all((ROOT / n).is_file() for n in named)
    assert (ROOT / "cluster/Dockerfile").read_text().count("\nFROM python:3.11-") == 1


def test_the_job_is_of_kuberay():
    spec = JOB["spec"]
    assert (JOB["apiVersion"], JOB["kind"]) == ("ray.io/v1", "RayJob") and spec["activeDeadlineSeconds"] > 0
    [worker] = spec["rayClusterSpec"]["workerGroupSpecs"]
    asked = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert f"--num-cpus {asked['cpu']} --num-gpus {asked['nvidia.com/gpu']}" in spec["entrypoint"]


def test_sky_reads_the_task():
    sky = pytest.importorskip("sky", reason="SkyPilot lives in an environment of its own")
    task = sky.Task.from_yaml(str(ROOT / "cluster/sky.yaml"))
    assert task.num_nodes == SKY["num_nodes"]


def test_tasks_inherit_settings_and_nothing_else(monkeypatch):
    seen = {}
    ray = types.ModuleType("ray")
    ray.init, ray.shutdown, ray.remote = seen.update, lambda: None, lambda fn: types.SimpleNamespace(remote=lambda *a: a[0])
    ray.wait, ray.get = lambda refs, num_returns: (refs, []), lambda ref: (0., "")
    monkeypatch.setitem(sys.modules, "ray", ray)
    for name, value in dict(AUDIOENGRAM_CACHE="/c", HF_TOKEN="t", AWS_REGION="eu", SECRET_OF_OTHERS="no").items(): monkeypatch.setenv(name, value)
    launch([Task("os:getcwd")], cluster="auto", progress=False)
    passed = seen["runtime_env"]["env_vars"]
    assert passed.items() >= dict(AUDIOENGRAM_CACHE="/c", HF_TOKEN="t", AWS_REGION="eu").items() and "SECRET_OF_OTHERS" not in passed
    assert all(os.environ[k] == v for k, v in passed.items())

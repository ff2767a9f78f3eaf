"What is sent to clusters, as far as it can be told without one: pins, files that exist, shell that parses, and what tasks inherit."
import json
import os
import re
import shutil
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


@pytest.mark.slow
def test_sky_reads_the_task():
    "In an environment of SkyPilot's own, which wants an older click: AUDIOENGRAM_SKY_PYTHON names its Python."
    python = os.environ.get("AUDIOENGRAM_SKY_PYTHON")
    if not python: pytest.skip("set AUDIOENGRAM_SKY_PYTHON to the Python of an environment with SkyPilot")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(SKYPILOT_DISABLE_USAGE_COLLECTION="1")
    run = lambda code: subprocess.run([python, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    told = run("import sky; sky.Task.from_yaml('cluster/sky.yaml')")
    assert told.returncode and "OUT" in told.stderr           # without a bucket it is refused
    read = run("import json, sky, yaml\n"
               "task = yaml.safe_load(open('cluster/sky.yaml')) | dict(workdir=None)\n"
               "t = sky.Task.from_yaml_config(task, env_overrides=[('OUT', 's3://x/y')]); [r] = t.resources\n"
               "print(json.dumps([t.name, t.num_nodes, r.accelerators, r.cpus, sorted(t.envs), t.setup, t.run]))")
    assert read.returncode == 0, read.stderr[-2000:]
    name, nodes, gpus, cpus, envs, setup, script = json.loads(read.stdout.splitlines()[-1])
    assert (name, nodes, gpus, cpus) == (SKY["name"], SKY["num_nodes"], {"L4": 1}, "8+") and set(SKY["envs"]) <= set(envs)
    assert setup.strip() == SKY["setup"].strip() and script.strip() == SKY["run"].strip()


LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "cluster/Dockerfile").read_text(), flags=re.M)).splitlines()
STEPS = [line.split(None, 1) for line in LINES if line.strip()]
KNOWN = {"FROM", "RUN", "USER", "WORKDIR", "COPY", "ENV", "CMD"}     # what the file may hold: no ADD, no shell forms of CMD


def dockerfile_faults(steps) -> list:
    "What hadolint would say of a Dockerfile, as far as it concerns ours."
    faults = [f"unknown instruction {word}" for word, _ in steps if word not in KNOWN]
    if steps[0][0] != "FROM": faults.append("does not begin with FROM")
    for word, rest in steps:
        if word == "FROM" and not re.search(r":\d", rest): faults.append(f"{rest} is not pinned")
        if word == "CMD" and not rest.startswith("["): faults.append("CMD runs a shell")
        if word != "RUN": continue
        if subprocess.run(["bash", "-n", "-c", rest]).returncode: faults.append(f"does not parse: {rest}")
        if "apt-get install" in rest and not all(t in rest for t in ("apt-get update", "--no-install-recommends", "-y", "rm -rf /var/lib/apt/lists")):
            faults.append("apt-get leaves its lists, or asks")
        if "pip install" in rest and "--no-cache-dir" not in rest: faults.append("pip keeps its cache")
        if "sudo" in rest: faults.append("sudo")
    if [rest for word, rest in steps if word == "USER"][-1:] in ([], ["root"]): faults.append("runs as root")
    return faults


def test_the_dockerfile_is_clean(): assert dockerfile_faults(STEPS) == []


@pytest.mark.parametrize("change, fault", [
    (lambda s: [["FROM", "python"], *s[1:]], "not pinned"), (lambda s: [*s, ["ADD", "x y"]], "unknown instruction ADD"),
    (lambda s: [*s, ["USER", "root"]], "runs as root"), (lambda s: [*s, ["RUN", "pip install ray"]], "cache"),
    (lambda s: [*s, ["RUN", "apt-get install git"]], "lists"), (lambda s: [*s, ["RUN", "if true; then"]], "parse")])
def test_the_lint_sees_a_fault(change, fault): assert any(fault in f for f in dockerfile_faults(change(STEPS)))


@pytest.mark.slow
def test_hadolint_agrees():
    if not shutil.which("hadolint"): pytest.skip("hadolint is not installed")
    subprocess.run(["hadolint", "--ignore", "DL3008", ROOT / "cluster/Dockerfile"], check=True)     # Debian's versions go with the image


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

"The static metadata, the exact pins and the documented commands agree with one another."
import re
import tomllib
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {canonicalize_name(r.name): r for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#") for r in [Requirement(line)]}


def test_pins_are_exact():
    assert all(len(r.specifier) == 1 and next(iter(r.specifier)).operator == "==" for r in PINS.values())


def test_every_requirement_is_pinned_and_its_pin_satisfies_it():
    wanted = list(PROJECT["dependencies"]) + [r for k, rs in PROJECT["optional-dependencies"].items() if k != "cluster" for r in rs]
    for r in map(Requirement, wanted):
        pin = PINS.get(canonicalize_name(r.name))
        assert pin is not None, f"{r.name} is required but not pinned in constraints.txt"
        assert r.specifier.contains(next(iter(pin.specifier)).version), f"{pin} does not satisfy {r}"


def test_the_environment_is_the_pinned_one():
    import torch
    assert torch.__version__.split("+")[0] == next(iter(PINS["torch"].specifier)).version
    assert version("nbdev") == next(iter(PINS["nbdev"].specifier)).version


def test_settings_and_project_agree():
    ini = ConfigParser(interpolation=None); ini.read(ROOT / "settings.ini")
    s = ini["DEFAULT"]
    assert s["version"] == PROJECT["version"] and s["lib_name"] == PROJECT["name"] and s["description"] == PROJECT["description"]
    assert "tags" in s["allowed_cell_metadata_keys"].split(), "without it nbdev_clean strips papermill's parameters tag"


def test_every_make_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split())
    assert phony == set(re.findall(r"^([a-z]+):.*## \S", text, re.M))
    readme = (ROOT / "README.md").read_text()
    assert "make reproduce" in readme and "make test" in readme

"""How free the code is to change, and how well the canary watches: twenty refactors move nothing, changes of meaning are seen.

The constants that are mutated are found, not chosen: those that a smoke run evaluates, drawn with a seed. Slow: minutes."""
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import canary
import pytest

ROOT = Path(__file__).resolve().parent.parent
WATCHED = ("d00_structure", "d01_predictability", "d04_memory", "d05_gap", "d10_archetypes")
ROOMS = ("measure", "dynamics", "heads", "data/windows.py", "data/cases.py")
GOAL = .9   # share of mutants caught
PLUMBING = {"seed", "dim", "axis", "chunk", "block", "rows", "batch_size", "digits", "ndigits", "ddof", "probes", "every", "most", "n_jobs",
            "maxsize", "min_lr", "width", "bins", "timeout", "iterations", "niter", "max_points_per_centroid"}   # of no meaning, or an upper bound that smoke never meets

RUN = """
import json, os, sys
sys.path.insert(0, {tests!r})
import canary, torch
torch.set_num_threads(1)
from importlib import import_module
module = import_module("audioengram.discussions.{name}")
assert module.__file__.startswith({package!r}), "the copy is what runs"
import builtins
if hasattr(builtins, "MUTANTS"): builtins.MUTANTS.clear()   # not what an import evaluates
result = module.run("smoke", folder={folder!r})
met = sorted(getattr(builtins, "MUTANTS", ()))
print("DIGEST" + json.dumps(dict(digest=canary.digest(result), met=met)))
"""


def smoke(package: Path, name: str, work: Path, mutant="") -> dict:
    "A discussion's smoke run by a copy of the package, with a cache of its own, and the constants that it met in a watched copy."
    code = RUN.format(tests=str(ROOT / "tests"), package=str(package / "audioengram") + os.sep, name=name, folder=str(work / name))
    env = dict(os.environ, PYTHONPATH=str(package), AUDIOENGRAM_CACHE=str(work / "cache"), OMP_NUM_THREADS="1", MPLBACKEND="agg", MUTANT=str(mutant))
    r = subprocess.run([sys.executable, "-c", code], cwd=package, env=env, capture_output=True, text=True)
    found = re.search(r"^DIGEST(.*)$", r.stdout, re.M)
    return json.loads(found[1]) if found else dict(error=r.stderr[-400:])


def copy_of(folder: Path) -> Path:
    shutil.copytree(ROOT / "audioengram", folder / "audioengram", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


# ---- twenty refactors of the kinds that used to condemn pages

REFACTORS = [   # (module, what to find, what to put there); one that finds nothing fails
    ("heads/vmf.py", r'raise ParameterError\((?=f?")', "raise ParameterError('Mind: ' + "),                 # error texts
    ("core.py", r"^    seed: int,   # seed of the run$", "    seed: int,   # the seed of a run"),
    ("core.py", r'^    "Derive a seed for a named part of a run\."$', '    "A seed of its own for each named part of a run."'),
    ("core.py", r"^\) -> int:        # a seed in", ") -> 'int':      # a seed in"),                       # an annotation
    ("measure/stats.py", r"\bleave_one_out\b", "without_each"),                                        # locals
    ("measure/stats.py", r"\bgather\b", "rows_of"),
    ("measure/stats.py", r'"Draw units with replacement\."', '"Draw units, each time putting them back."'),
    ("dynamics/predictor.py", r"\bper_epoch\b", "steps_in_an_epoch"),
    ("dynamics/predictor.py", r"(?<!\.)\bkept\b", "best_weights"),
    ("dynamics/gap.py", r"(?<!\.)\bparts\b", "pile"),
    ("dynamics/gap.py", r"^from scipy.optimize import minimize_scalar$", "import scipy.optimize\nminimize_scalar = scipy.optimize.minimize_scalar"),
    ("dynamics/rollout.py", r"\bgoal\b", "aim"),
    ("dynamics/injection.py", r"(?<![.\w])size(?= = lambda|\()", "length_of"),
    ("dynamics/archetypes.py", r"(?<!\.)\bhere\b", "at_this_step"),
    ("dynamics/memory.py", r"\bwithin\b(?!_| /? ?variance)", "inside"),
    ("dynamics/basis.py", r"\Z", "\n\ndef _never_called(): return 0\n"),                              # a definition more
    ("data/cases.py", r'"A corpus under a codec\."', '"One corpus under one codec."'),
    ("measure/geometry.py", r"^import numpy as np$", "import math as _math\n\nimport numpy as np"),
    ("heads/elliptic.py", r"\n\n(?=def |class )", "\n\n\n\n"),                                                          # layout
    ("heads/mixture.py", r"^(        )(return .*)$", r"\1# as stated above\n\1\2"),                         # comments
]


@pytest.mark.slow
def test_twenty_refactors_move_nothing(tmp_path):
    from audioengram.stages import moved_stages, stage_versions
    package = copy_of(tmp_path)
    assert len(REFACTORS) == 20
    for file, old, new in REFACTORS:
        path = package / "audioengram" / file
        text, n = re.subn(old, new, path.read_text(), flags=re.M)
        assert n, f"{file}: nothing to refactor at {old!r}"
        ast.parse(text)
        path.write_text(text)
    versions = stage_versions(package / "audioengram")
    for manifest in sorted((ROOT / "figures").glob("*/manifest.json")):
        assert moved_stages(json.loads(manifest.read_text())["made_by"], versions) == [], manifest.parent.name
    for name in WATCHED:
        found = smoke(package, name, tmp_path)
        assert "error" not in found, found
        assert not (said := canary.problem(name, found["digest"])), said


# ---- mutants

EQUIVALENT = {   # (file, what the line holds): why no run can tell the mutant from the original; these are not drawn
    ("dynamics/memory.py", "for t in taus if self.k > 1 else (1.,)"): "one neighbour has all the weight, whatever the temperature",
    ("dynamics/memory.py", "(math.inf, 1., self.tau.clone())"): "the first value tried replaces it",
    ("dynamics/memory.py", "nll = (.5 * ((values - mean)"): "only the place of the least is read, and a factor does not move it",
    ("dynamics/predictor.py", "length=24"): "letters in the name of a folder",
    ("measure/rules.py", "max(1., square**2"): "fewer degrees of freedom than one take two speakers and two seeds that all differ",
    ("heads/mixture.py", "torch.randn(components, dim) * .1"): "a mixture that is fitted starts at the marginal instead",
    ("dynamics/unroll.py", "min(1., self.done"): "a share of what is to be done is at most one",
    ("measure/prediction.py", "np.log(scores.magnitude.where(moved, 1.))"): "masked before it is summed",
    ("dynamics/memory.py", "var=1e-2 * values.var(0)"): "tuning multiplies it by the factor that fits",
}

class Constants(ast.NodeVisitor):
    "Numbers in bodies of functions that mean something: floats, and ints that are keyword arguments."
    def __init__(self): self.found = []
    def visit_FunctionDef(self, node):
        for child in node.body: self.visit(child)      # a default may be overruled by every caller, so it proves nothing
    def visit_keyword(self, node): self.add(node.value, node.arg); self.generic_visit(node)
    def visit_Call(self, node):
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("ParameterError", "clip", "clamp", "clamp_min", "print", "use_style"): return
        self.generic_visit(node)
    def visit_Constant(self, node):
        if isinstance(node.value, float) and abs(node.value) > 1e-3: self.found.append((node.lineno, node.col_offset, node.end_col_offset, node.value))
    def add(self, node, name):
        number = isinstance(node, ast.Constant) and type(node.value) is int and node.value > 1
        if number and name not in PLUMBING: self.found.append((node.lineno, node.col_offset, node.end_col_offset, node.value))


WATCH = """
import builtins, os
builtins.MUTANTS = set()
def _constant(i, value, mutant=os.environ.get("MUTANT")):
    builtins.MUTANTS.add(i)
    which, _, way = (mutant or "").partition(" ")
    if which != str(i): return value
    if type(value) is int: return value * 2 if way == "more" else value // 2
    return value * 1.5 if way == "more" else value / 1.5
builtins.MUTANT = _constant
"""


def watched_copy(folder: Path) -> tuple:
    "A copy of the package in which every constant of the measuring rooms is asked for by number, and what they are."
    package, found = copy_of(folder), []
    for path in sorted((package / "audioengram").rglob("*.py")):
        file = str(path.relative_to(package / "audioengram"))
        if not file.startswith(ROOMS): continue
        visitor, lines = Constants(), path.read_bytes().splitlines()       # columns of a syntax tree count bytes
        visitor.visit(ast.parse(path.read_bytes()))
        for line, a, b, value in sorted(set(visitor.found), reverse=True):
            text = lines[line - 1]
            if any(f == file and known.encode() in path.read_bytes().splitlines()[line - 1] for f, known in EQUIVALENT): continue
            found.append((file, line, value, text.decode().strip()))
            lines[line - 1] = text[:a] + f"MUTANT({len(found) - 1}, {value!r})".encode() + text[b:]
        path.write_bytes(b"\n".join(lines) + b"\n")
    start = package / "audioengram" / "__init__.py"
    start.write_text(WATCH + start.read_text())
    return package, found


@pytest.mark.slow
@pytest.mark.xfail(reason="not reached: 36 of 50 when last measured, six of the missed equivalent and listed since; the others are bounds of marks that no toy "
                          "value comes near, smoothing of counts, and quantiles of a bootstrap over two speakers")
def test_the_canary_catches_mutants(tmp_path):
    "Constants that a run evaluates are drawn; one is watched if half as much more or less of it (an int: twice or half) is seen, or raises."
    n = int(os.environ.get("MUTANTS", 50)) // len(WATCHED)
    package, found = watched_copy(tmp_path / "watched")
    rng, caught, missed, drawn = random.Random(0), 0, [], 0
    for name in WATCHED:
        plain = smoke(package, name, tmp_path / "plain")
        assert "error" not in plain and not canary.problem(name, plain["digest"]), "a copy that is only watched measures the same"
        assert len(plain["met"]) > n, f"{name} evaluates too few constants to draw from"
        for i in rng.sample(plain["met"], n):
            drawn += 1
            if any(_seen(package, name, tmp_path, f"{i} {way}") for way in ("more", "less")): caught += 1
            else: missed.append(f"{name} {found[i][0]}:{found[i][1]} {found[i][2]} in {found[i][3][:90]}")
    print(f"{caught} of {drawn} constants are watched; missed:", *missed, sep="\n  ")
    assert caught >= GOAL * drawn, missed


def _seen(package, name, tmp_path, mutant) -> bool:
    "Whether the canary sees a mutant."
    new = smoke(package, name, tmp_path / "work", mutant)
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    return "error" in new or bool(canary.problem(name, new["digest"]))

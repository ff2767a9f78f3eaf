"""How free the code is to change, and how well the canary watches: twenty refactors move nothing, changes of meaning are seen.

The constants that are mutated are found, not chosen: those on lines that a smoke run executes, drawn with a seed. Slow: minutes."""
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
            "maxsize", "min_lr", "width", "bins", "timeout", "iterations", "niter"}   # of no meaning, or an upper bound that smoke never meets

RUN = """
import json, sys
sys.path.insert(0, {tests!r})
import canary, torch
torch.set_num_threads(1)
from importlib import import_module
seen = set()
if {trace!r}:
    here = {package!r}
    def look(frame, event, arg):
        if not frame.f_code.co_filename.startswith(here) or frame.f_code.co_name == "<module>": return None   # not what an import runs
        def line(frame, event, arg):
            seen.add((frame.f_code.co_filename[len(here):], frame.f_lineno))
            return line
        return line(frame, event, arg)
    sys.settrace(look)
module = import_module("audioengram.discussions.{name}")
assert module.__file__.startswith({package!r}), "the copy is what runs"
result = module.run("smoke", folder={folder!r})
sys.settrace(None)
print("DIGEST" + json.dumps(dict(digest=canary.digest(result), lines=sorted(seen))))
"""


def smoke(package: Path, name: str, work: Path, trace=False) -> dict:
    "A discussion's smoke run by a copy of the package, with a cache of its own."
    code = RUN.format(tests=str(ROOT / "tests"), trace=trace, package=str(package / "audioengram") + os.sep, name=name, folder=str(work / name))
    env = dict(os.environ, PYTHONPATH=str(package), AUDIOENGRAM_CACHE=str(work / "cache"), OMP_NUM_THREADS="1", MPLBACKEND="agg")
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


def constants(package: Path, lines: set) -> list:
    "(file, line, from, to, value) of every constant on an executed line of a measuring room."
    found = []
    for file in sorted({f for f, _ in lines}):
        if not file.startswith(ROOMS): continue
        visitor = Constants()
        visitor.visit(ast.parse((package / "audioengram" / file).read_text()))
        found += [(file, *c) for c in sorted(set(visitor.found)) if (file, c[0]) in lines]
    return found


@pytest.mark.slow
@pytest.mark.xfail(reason="not reached: 5 of 10 when first measured; missed were class defaults and branches that the run does not take")
def test_the_canary_catches_mutants(tmp_path):
    "Each mutant multiplies one constant by 1.5 (an int by 2); a mutant that raises is caught, too."
    n = int(os.environ.get("MUTANTS", 50))
    base = copy_of(tmp_path / "base")
    drawn, rng, caught, missed = [], random.Random(0), 0, []
    for name in WATCHED:
        lines = {tuple(x) for x in smoke(base, name, tmp_path / f"trace-{name}", trace=True)["lines"]}
        some = constants(base, lines)
        drawn += [(name, *c) for c in rng.sample(some, min(len(some), n // len(WATCHED)))]
    assert len(drawn) == n // len(WATCHED) * len(WATCHED), "every watched page has constants to mutate"
    for i, (name, file, line, a, b, value) in enumerate(drawn):
        package = copy_of(tmp_path / f"m{i}")
        path = package / "audioengram" / file
        text = path.read_text().splitlines()
        text[line - 1] = text[line - 1][:a] + repr(value * 2 if type(value) is int else value * 1.5) + text[line - 1][b:]
        path.write_text("\n".join(text) + "\n")
        found = smoke(package, name, tmp_path / f"m{i}")
        if "error" in found or canary.problem(name, found["digest"]): caught += 1
        else: missed.append(f"{name} {file}:{line} {value} in {text[line - 1].strip()[:90]}")
        shutil.rmtree(tmp_path / f"m{i}")
    print(f"{caught} of {len(drawn)} mutants caught; missed:", *missed, sep="\n  ")
    assert caught >= GOAL * len(drawn), missed

"""The canary: digests of what every discussion measures on the toy corpus, kept in `tests/canaries/`.

A refactor leaves them as they are. A digest that moves without a raised stage version is a change of numbers that nobody meant, and the
message says which column of which table. After numbers were meant to move, raise the version and run `make canaries`.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd

PLACE = Path(__file__).resolve().parent / "canaries"
TOLERANCE = 1e-3   # of a column's scale: quiet between processors (AVX2 and SSE kernels), loud for a constant that was changed

# What belongs to no digest, or wanders more between processors than TOLERANCE; (discussion, table, column), None for any.
LEFT_OUT = {
    (None, None, "seconds"): "a clock",
    (None, None, "cpu_seconds"): "a clock",
    ("d90_codec_card", "speed", None): "a clock",
    ("d90_codec_card", "bars", "measured"): "holds speeds",
    ("d90_codec_card", "bars", "met"): "holds speeds",
    ("d20_small_data_codes", "speed", None): "a clock",
    ("d20_small_data_codes", "copying", None): "its vocabulary forks on another processor",
    ("d20_small_data_codes", "folder_facts", None): "its vocabulary forks on another processor",
    ("d20_small_data_codes", "folders", None): "holds clocks, and vocabularies that fork on another processor",
    ("d09_representations", "points", "ratio"): "whether two curves cross: a fork",
    ("d11_generation", "seconds", None): "logits of networks that fork on another processor",
    ("d11_generation", "areas", None): "areas of two speakers move in steps of a quarter; their rows are watched",
    ("d11_generation", "hypotheses", None): "areas among them",
    ("d12_drift", "seconds", None): "logits of networks that fork on another processor",
    ("d12_drift", "areas", None): "areas of two speakers move in steps of a quarter; their rows are watched",
    ("d13_modelability", "results", "early"): "logits of networks that fork on another processor",
    ("d13_modelability", "results", "late"): "logits of networks that fork on another processor",
    ("d14_what_matters", "results", "early"): "areas of two speakers move in steps of a quarter",
    ("d14_what_matters", "results", "late"): "areas of two speakers move in steps of a quarter",
    ("d14_what_matters", "results", "logit"): "logits of networks that fork on another processor",
    ("d14_what_matters", "hypotheses", None): "differences of such areas",
    ("d02_measures", "seconds", None): "logits of networks that fork on another processor",
    ("d02_measures", "areas", None): "areas of two speakers move in steps of a quarter; their rows are watched",
}
WIDER = {   # (discussion, table, column): three times what other kernels move it, since training or clusters fork there; None for all columns
    ("d00_structure", "cells", "null_pc1"): .1,
    ("d00_structure", "cells", "null_pc2"): .007,
    ("d00_structure", "cells", "pc1"): .005,
    ("d00_structure", "cells", "pc2"): .008,
    ("d00_structure", "confidence", "frames"): .15,
    ("d00_structure", "confidence", "total"): .009,
    ("d00_structure", "confidence", "within"): .13,
    ("d00_structure", "results", "gain"): .004,
    ("d01_predictability", "components", "crossings"): .01,
    ("d01_predictability", "components", "flux"): .008,
    ("d02_measures", "results", "attack"): .17,
    ("d05_gap", "free", "lo"): .004,
    ("d05_gap", "splices", "distance"): .004,
    ("d09_representations", "points", "points"): .08,
    ("d10_archetypes", "transfer", "cosine"): .006,
    ("d11_generation", "results", "attack"): .03,
    ("d11_generation", "results", "level_spread"): .008,
    ("d20_small_data_codes", "levels", None): .75,
    ("d20_small_data_codes", "prior", None): .07,
    ("d20_small_data_codes", "holes", None): .13,
    ("d20_small_data_codes", "edits", None): .006,
    ("d20_small_data_codes", "usage", None): .9,
    ("d20_small_data_codes", "folder_files", None): .75,
    **{("d20_small_data_codes", "results", c): mark for c, mark in
       dict(attack=.5, level=.3, mel_db=.16, peak=.09, stft=.08, visqol=.35).items()},
    ("d90_codec_card", "odd", "error"): .007,
    ("d90_codec_card", "odd", "peak"): .035,
    ("d90_codec_card", "results", "pesq_wb"): .01,
    ("d90_codec_card", "summary", "lo"): .01,
    ("d90_codec_card", "summary", "value"): .005,
    ("d90_codec_card", "summary", "worst"): .01,
}


def left_out(name: str, table: str, column: str) -> bool:
    "Whether a column takes no part in the digest of a discussion."
    return any((n in (None, name)) and (t in (None, table)) and (c in (None, column)) for n, t, c in LEFT_OUT)


def digest(result) -> dict:
    "A small summary of a run's tables: rows, and per numeric column sum, least, greatest, scale and five values; labels by their counts."
    tables = {}
    for table in result.table_names:
        df = result.table(table)
        columns = {c: summary(df[c]) for c in df if not left_out(result.name, table, c)}
        if columns: tables[table] = dict(rows=len(df), columns=columns)
    worlds = sorted({i["fingerprint"] for i in result.manifest["inputs"].get("corpus", [])})
    return dict(made_by=result.manifest["made_by"], worlds=worlds, tables=tables)


def summary(column: pd.Series) -> dict:
    "One column in a few numbers; yes and no count as numbers, where some are missing too."
    if len(known := column.dropna()) and set(known) <= {True, False}: column = column.astype(float)
    if column.dtype.kind not in "iufb": return dict(values=int(column.nunique()))
    x = column.to_numpy(float)
    good = x[np.isfinite(x)]
    if not len(good): return dict(empty=len(x))
    at = np.linspace(0, len(good) - 1, 5).round().astype(int)
    few = dict(sum=good.sum(), least=good.min(), most=good.max(), scale=np.abs(good).mean())
    return {k: float(f"{v:.7g}") for k, v in few.items()} | dict(some=[float(f"{v:.7g}") for v in good[at]], missing=int(len(x) - len(good)))


def differences(old: dict, new: dict, name="") -> list:
    "What moved between two digests of a discussion, in words."
    found = []
    for table in old["tables"].keys() | new["tables"].keys():
        a, b = (d["tables"].get(table, dict(rows=0, columns={})) for d in (old, new))
        if a["rows"] != b["rows"]: found.append(f"{table}: {a['rows']} rows, now {b['rows']}"); continue
        for column in a["columns"].keys() | b["columns"].keys():
            tolerance = WIDER.get((name, table, column), WIDER.get((name, table, None), TOLERANCE))
            if said := moved(a["columns"].get(column), b["columns"].get(column), tolerance): found.append(f"{table}.{column} {said}")
    return sorted(found)


def moved(a, b, tolerance=TOLERANCE) -> str:
    "How a column moved, in words; empty if it did not."
    if a is None or b is None: return "is new" if a is None else "is gone"
    if a.keys() != b.keys(): return "changed its kind"
    if "scale" not in a: return "" if a == b else f"was {a}, is {b}"
    if abs(a["missing"] - b["missing"]) > (tolerance > TOLERANCE) * 2: return f"had {a['missing']} missing values, has {b['missing']}"
    scale = max(a["scale"], b["scale"], 1e-12)
    n = max(1., abs(a["sum"]) / scale)      # a sum is held against the sum of sizes
    pairs = [(a["sum"] / n, b["sum"] / n), (a["least"], b["least"]), (a["most"], b["most"]), *zip(a["some"], b["some"], strict=True)]
    by = max(abs(x - y) / max(scale, abs(x)) for x, y in pairs)
    return f"moved by {by:.2g} of its scale" if by > tolerance else ""


def read(name: str) -> dict | None:
    "The kept digest of a discussion."
    path = PLACE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(name: str, value: dict):
    "Keep a digest."
    PLACE.mkdir(exist_ok=True)
    (PLACE / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")).replace('},"', '},\n"') + "\n")


def problem(name: str, new: dict) -> str:
    "What is wrong with a digest, in a sentence; empty if nothing is."
    old = read(name)
    if old is None: return f"{name} has no canary: run `make canaries`"
    raised = {k: (old["made_by"].get(k), v) for k, v in new["made_by"].items() if old["made_by"].get(k) != v}
    gone = old["made_by"].keys() - new["made_by"].keys()
    what = differences(old, new, name)
    if old["worlds"] != new["worlds"]: return f"{name} was measured on another toy corpus than its canary: run `make canaries`"
    if raised or gone:
        return f"{name} is made by other stages than its canary ({raised or sorted(gone)}): run `make canaries` and commit it with the version"
    shown = "; ".join(what[:8]) + (f" and {len(what) - 8} more" if len(what) > 8 else "")
    return f"{name}: numbers moved without a raised stage version: {shown}" if what else ""

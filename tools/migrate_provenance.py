"""Switch the published pages from a hash of source code to versions of stages: run once, at the commit for which all are fresh.

    python migrate.py BASE SMOKE...     BASE: a checkout of the last commit of the old scheme; SMOKE: folders of smoke runs with the new one

Checks that every page is fresh by the old rule, that the smoke runs of both trees are equal to the last bit, and then writes `made_by`, the commit, and the clips of each case.
No number is touched: claims.json, tables, figures and clips are compared before and after."""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

base, smokes = Path(sys.argv[1]), [Path(s) for s in sys.argv[2:]]
root = Path.cwd()
commit = subprocess.check_output(["git", "-C", str(base), "rev-parse", "HEAD"], text=True).strip()
clean = not subprocess.check_output(["git", "-C", str(base), "status", "--porcelain"], text=True).strip()
assert clean, "the base must be a clean checkout"

# 1. fresh by the old rule, in the base's own code
old_rule = "import json; from audioengram.lab.notebooks import list_discussions; print(json.dumps(dict(zip(*list_discussions()[['name', 'stale']].values.T.tolist()))))"
stale = json.loads(subprocess.check_output([sys.executable, "-c", old_rule], text=True, cwd=base, env=dict(os.environ, PYTHONPATH=str(base))))
assert len(stale) == 15 and not any(stale.values()), stale

from audioengram.lab.notebooks import notebook_fingerprint, read_notebook  # noqa: E402
from audioengram.stages import stage_versions  # noqa: E402

register = stage_versions()
assert set(register.values()) == {1}, register
sha = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()
dump = lambda p, x: p.write_text(json.dumps(x, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
for name in stale:
    folder = root / "figures" / name
    seen = next(json.loads((s / name / "manifest.json").read_text()) for s in smokes if (s / name / "manifest.json").is_file())
    made_by = seen["made_by"]
    assert set(made_by) <= set(register) and made_by
    manifest = json.loads((folder / "manifest.json").read_text())
    before = {f: sha(folder / f) for f in manifest["files"]}
    assert before == manifest["files"], name
    # cases: versions instead of a hash, and which clips are whose
    for about in (folder / "cases.json", folder / "recipe.json"):
        if not about.is_file(): continue
        value = json.loads(about.read_text())
        if about.name == "cases.json":
            files = {c["case"]: c["case"].replace("+", "_") for c in value}
            owner = {}
            for clip in manifest["clips"]:
                mine = [c for c, f in files.items() if clip == f or clip.startswith(f + "_")]
                if not mine and clip.endswith("_original"): mine = [next(c["case"] for c in value if clip == c["corpus"]["name"] + "_original")]
                owner[clip] = max(mine, key=len)
            out = []
            for c in value:
                c = {("made_by" if k == "code" else k): (made_by if k == "code" else v) for k, v in c.items()}
                out.append(c | dict(clips=[k for k, o in owner.items() if o == c["case"]]))
            value = out
        else: value = {k: v for k, v in value.items() if k != "code"} | dict(made_by=made_by)
        dump(about, value)
        manifest["files"][about.name] = sha(about)
    was = dict(manifest["git"] or {})
    new = {}
    for k, v in manifest.items():
        if k == "code": new["made_by"] = made_by
        elif k == "git": new["git"] = dict(commit=commit, dirty=False)
        else: new[k] = v
    new["migrated"] = dict(code=manifest["code"], commit=was.get("commit"), checked="the source hash of the measuring code was equal at the commit above")
    page = read_notebook(base / "nbs" / "discussions" / f"{name}.ipynb")
    new["page"] = dict(manifest["page"], notebook=notebook_fingerprint(page))
    dump(folder / "manifest.json", new)
    after = {f: sha(folder / f) for f in manifest["files"]}
    changed = {f for f in before if before[f] != after[f]}
    assert changed <= {"cases.json", "recipe.json"}, (name, changed)
    print(f"{name}: {', '.join(made_by)}; {len(before) - len(changed)} files unchanged")

"""Verdicts as pages first had them, read from the history of the repository: python benchmarks/first_verdicts.py

Writes nbs/assets/first_verdicts.json: page -> commit, date and verdict of the oldest published page that had one."""
import json
import subprocess
from pathlib import Path

from audioengram.core import write_json
from audioengram.lab.reading import lead_of

ROOT = Path(__file__).resolve().parent.parent


def git(*args) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def first_verdict(name: str) -> dict | None:
    "Commit, date and verdict of the oldest page of a discussion that gave an answer."
    file = f"figures/{name}/page.ipynb"
    for line in git("log", "--reverse", "--format=%H %as", "--", file).splitlines():
        commit, date = line.split()
        try: page = json.loads(git("show", f"{commit}:{file}"))
        except (subprocess.CalledProcessError, json.JSONDecodeError): continue
        text = "".join(page["cells"][0]["source"])
        if lead := lead_of(text): return dict(commit=commit[:10], date=date, verdict=lead)
    return None


if __name__ == "__main__":
    found = {p.parent.name: first_verdict(p.parent.name) for p in sorted((ROOT / "figures").glob("*/page.ipynb"))}
    write_json(ROOT / "nbs/assets/first_verdicts.json", {k: v for k, v in found.items() if v})
    print(f"{len(found)} pages")

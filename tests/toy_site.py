"A small project with everything a site can hold: library pages, a report, and a run with rows, a figure, clips and an executed page."
import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt

from audioengram.lab.glossary import glossary
from audioengram.lab.pages import write_notebook
from audioengram.lab.players import write_row
from audioengram.lab.runs import Run

ROOT = Path(__file__).resolve().parent.parent
RATE = 16_000


def cell(kind, source, *outputs, tags=None):
    "A notebook cell; an output is a MIME bundle."
    c = dict(cell_type=kind, metadata={"tags": tags} if tags else {}, source=source.splitlines(keepends=True), id=f"c{abs(hash(source)) % 10**8}")
    if kind == "code":
        c |= dict(execution_count=None, outputs=[dict(output_type="display_data", metadata={}, data=o) for o in outputs])
    return c


def notebook(*cells):
    kernel = dict(display_name="python3", language="python", name="python3")
    return dict(cells=list(cells), metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


def sounds() -> dict:
    "Three seconds of a gliding voice-like tone: as it is, quieter, noisy."
    t = np.arange(3 * RATE) / RATE
    f0 = 120 + 40 * np.sin(2 * np.pi * .5 * t)
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(f0) / RATE) / k for k in range(1, 20)) * (.3 + .7 * (np.sin(2 * np.pi * 2 * t) > 0))
    noise = np.random.default_rng(0).normal(size=len(t))
    return dict(original=(.2 * voice, RATE), decoded=(.02 * voice + .001 * noise, RATE), noisy=(.1 * voice + .1 * noise, RATE))


def make_project(root: Path, library=("nbs/00_core.ipynb", "nbs/01_errors.ipynb")) -> Path:
    "Write the project; `library` names real notebooks to take along."
    for name in ("_quarto.yml", "LICENSE", "settings.ini", "nbs/assets", *library):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    folder = root / "figures" / "d99_toy"
    with Run("d99_toy", dict(seed=0), folder=folder, profile="smoke") as run:
        run.rows([dict(speaker=s, ratio=.9) for s in "abc"])
        run.claim("ratio", .9, .88, .92, n=3, unit="speaker")
        fig, ax = plt.subplots(figsize=(6, 2.6))
        ax.plot(np.sin(np.arange(60) / 6)); ax.set_xlabel("step")
        run.figure("wave", fig, alt="A sine over sixty steps", caption="A sine.")
        row = write_row(run, sounds(), captions=dict(original="As it was recorded.", decoded="Through 64 numbers every 80 ms, and back.", noisy="With noise at 0 dB."))
    table = {"text/markdown": ["| speaker | ratio |\n", "|:--|--:|\n", "| a | 0.90 |\n", "| b | 0.88 |\n"]}
    write_notebook(notebook(
        cell("markdown", "# Does the toy ring?\n> Yes: the ratio is 0.900 [0.880, 0.920]."),
        cell("markdown", "## Question\nWhether $\\Delta z_t = z_{t+1} - z_t$ rings, given\n\n$$\\log p(\\Delta z) = \\log p(d) + \\log p(m \\mid d) - (D-1) \\log m .$$"),
        cell("code", "seed = 0", tags=["parameters"]),
        cell("code", "import numpy as np\n\ndef ratio(x):  # within over total\n    return np.var(x) / 2\n\nratio([1, 2, 3])", {"text/plain": ["0.333"]}),
        cell("markdown", "## Figures"), cell("code", "figure", {"text/markdown": ["![A sine.](wave.svg){fig-alt=\"A sine over sixty steps\"}"]}),
        cell("code", "rows", table),
        cell("markdown", "## Listen"), cell("code", "row", {"text/markdown": row.html(page=folder).splitlines(keepends=True), "text/plain": [repr(row)]}),
        cell("markdown", "## Next\nSee [core](../../nbs/00_core.ipynb) and [the rows](results.csv).")), folder / "page.ipynb")
    words = {"text/markdown": re.sub(r' <a href="[^"]*">More</a>', "", glossary()).splitlines(keepends=True)}
    write_notebook(notebook(cell("markdown", "# Glossary\n> Words."), cell("code", "glossary()", words), cell("code", "#| default_exp lab.glossary")),
                   root / "nbs/lab/13_glossary.ipynb")
    source = "#| echo: false\nfrom audioengram.lab.home import findings, notebook_map, report\n\nreport(findings() + '\\n\\nThe ratio is {claim:d99_toy/ratio}.')"
    write_notebook(notebook(
        cell("markdown", "# Toy\n> A project to test the site with.\n\nEach null has an interval."), cell("code", source),
        cell("markdown", "## Map"), cell("code", "#| echo: false\nreport(notebook_map())"), cell("markdown", "[Licence](../LICENSE)")), root / "nbs/index.ipynb")
    return root


if __name__ == "__main__":
    import sys

    from audioengram.lab.site import build_site
    print(json.dumps(str(build_site(root=make_project(Path(sys.argv[1])), quarto="never"))))

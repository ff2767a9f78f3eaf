"The discussions stand in nbs/ and travel in the wheel with what they claim; what they export is in it already."
import json
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def without_exports(notebook: Path) -> str:
    "A discussion that takes what its cells export, names and imports alike, from the installed module."
    page = json.loads(notebook.read_text("utf-8"))
    exported = [c for c in page["cells"] if c["cell_type"] == "code" and "#| export" in "".join(c["source"])]
    exported[0]["source"] = [f"import audioengram.discussions.{notebook.stem} as method\n", "\n",
                             "globals().update({k: v for k, v in vars(method).items() if k[:2] != '__'})"]
    page["cells"] = [c for c in page["cells"] if c not in exported[1:]]
    return json.dumps(page, ensure_ascii=False)


def of_lead_case(claims: Path) -> str:
    "What other pages, and lists of answers, quote of a page."
    said = json.loads(claims.read_text("utf-8"))
    return json.dumps({k: v for k, v in said.items() if k.startswith("main.")}, ensure_ascii=False)


class BuildWithPages(build_py):
    "Writes the discussions beside the modules; an editable install reads them where they are."
    def run(self):
        super().run()
        if self.editable_mode: return
        pages = Path(self.build_lib) / "audioengram" / "pages"
        (pages / "claims").mkdir(parents=True, exist_ok=True)
        for notebook in sorted((ROOT / "nbs" / "discussions").glob("d*.ipynb")):
            (pages / notebook.name).write_text(without_exports(notebook), "utf-8")
        for claims in sorted((ROOT / "figures").glob("*/claims.json")):
            (pages / "claims" / f"{claims.parent.name}.json").write_text(of_lead_case(claims), "utf-8")


setup(cmdclass={"build_py": BuildWithPages})

"The discussions stand in nbs/ and travel in the wheel, with the claims that they quote of one another."
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithPages(build_py):
    "Copies the discussions beside the modules; an editable install reads them where they are."
    def run(self):
        super().run()
        if self.editable_mode: return
        pages = Path(self.build_lib) / "audioengram" / "pages"
        for notebook in sorted((ROOT / "nbs" / "discussions").glob("d*.ipynb")):
            self._copy(notebook, pages / notebook.name)
        for claims in sorted((ROOT / "figures").glob("*/claims.json")):
            self._copy(claims, pages / "claims" / f"{claims.parent.name}.json")

    def _copy(self, source: Path, target: Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildWithPages})

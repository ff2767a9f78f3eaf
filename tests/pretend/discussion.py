"A smoke run with the device forced: `discussion.py NAME FOLDER`. Run by tests/test_pretend_device.py."
import importlib
import sys

import pretend_cuda

from audioengram.core import get_profile

name, folder = sys.argv[1:]
page = importlib.import_module(f"audioengram.discussions.{name}")
result = page.run(get_profile("smoke", device="cuda"), folder=folder)
assert result.claims and result.manifest["device"] == "a pretend device", result.manifest["device"]
print(pretend_cuda.kernels.total(), "kernels")

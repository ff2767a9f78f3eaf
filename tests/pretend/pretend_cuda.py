"""A pretend CUDA device for a machine without one: real values, CUDA's rules.

A tensor "on cuda:0" wraps a CPU tensor. Every operation passes `run`, which refuses what CUDA refuses (tensors of two
devices, a generator of another device, the NumPy view of a device tensor), computes on the CPU, and counts kernels,
copies to the device and host syncs by the line of the package that asked for them. It proves where data are. It says
nothing of speed, memory or the accuracy of a GPU's kernels.

    python tests/pretend/pretend_cuda.py FILE ARGS...    # a Python file, or with -m a module, and the device
"""
import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA = "cuda:0"


def compiler() -> str | None:
    "The C++ compiler of this machine, or None."
    return shutil.which(os.environ.get("CXX", "g++"))


def hooks() -> Path:
    "The compiled hooks.cpp, made anew for another torch or another text of it."
    torch_at = Path(importlib.util.find_spec("torch").origin).parent
    source, key = HERE / "hooks.cpp", importlib.metadata.version("torch")
    stamp = f"{key}-{source.stat().st_mtime_ns}-{source.stat().st_size}"
    made = Path(tempfile.gettempdir()) / f"pretend-cuda-{os.getuid()}" / f"hooks-{stamp}.so"
    if made.exists(): return made
    made.parent.mkdir(mode=0o700, exist_ok=True)
    part = made.with_suffix(f".{os.getpid()}")
    include = [f"-I{torch_at / 'include'}", f"-I{torch_at / 'include/torch/csrc/api/include'}"]
    link = [f"-L{torch_at / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_at / 'lib'}"]
    flags = ["-O0", "-shared", "-fPIC", "-std=c++20", *include]
    subprocess.run([compiler(), *flags, str(source), "-o", str(part), *link], check=True)
    part.rename(made)
    return made


ctypes.CDLL(str(hooks()), ctypes.RTLD_GLOBAL)     # before torch, which asks for the hooks once, when it is imported

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402

aten, HOST = torch.ops.aten, torch.device("cpu")
kernels, uploads, syncs = Counter(), Counter(), Counter()   # "dynamics/predictor.py:330" -> how many

COPIES = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor, aten._foreach_copy_.default}
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
           aten._index_put_impl_.default}
TAKES_A_NUMBER = ("fill", "fill_", "masked_fill", "masked_fill_")     # beside the pointwise operations
DATA_DECIDES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
                "_linalg_check_errors"}                               # shapes, or an error, that the CPU must know


def lstm_cell(gates_x, gates_h, c, bias_x, bias_h):
    "The one fused kernel of CUDA that the CPU lacks and that a codec here calls."
    i, f, g, o = (gates_x + gates_h + bias_x + bias_h).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c, gates_x.new_empty(0)


STAND_INS = {aten._thnn_fused_lstm_cell.default: lstm_cell}


class OnDevice(torch.Tensor):
    "A tensor on cuda:0; its values are those of `inner`."
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        layout = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=CUDA, **layout)

    def __init__(self, inner): self.inner = inner.detach()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args, **kwargs): return self.numpy()
    def tolist(self): return self.cpu().tolist()
    def __repr__(self, **kwargs): return f"OnDevice({self.inner!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            new, learns = OnDevice(self.inner.clone()), self.requires_grad
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(new, learns) if is_parameter else new.requires_grad_(learns)
        return memo[id(self)]


def leaves_of(x, found: list) -> list:
    "Arguments, however deep in lists; torch's own walk of trees takes longer than a small kernel."
    if type(x) in (tuple, list):
        for y in x: leaves_of(y, found)
    else: found.append(x)
    return found


def mapped(f, x):
    "f of every leaf."
    return type(x)([mapped(f, y) for y in x]) if type(x) in (tuple, list) else f(x)


def far(x) -> bool: return type(x) is OnDevice


class Op:
    "What is asked of an operation at every call."
    def __init__(self, func):
        schema = func._schema
        self.name, self.indexed, self.copies = schema.name.split("::")[1], func in INDEXED, func in COPIES
        self.takes_numbers = torch.Tag.pointwise in func.tags or self.name in TAKES_A_NUMBER
        self.draws = torch.Tag.nondeterministic_seeded in func.tags
        self.shares = schema.is_mutable or any(r.alias_info is not None for r in schema.returns)   # memory
        self.compute = STAND_INS.get(func, func)


op_of = functools.cache(Op)
file_of = functools.cache(lambda name: name.rpartition("/audioengram/")[2] if "/audioengram/" in name else None)


def line() -> str:
    "The innermost line of the package that is being executed."
    frame = sys._getframe(1)
    while frame:
        if file := file_of(frame.f_code.co_filename): return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def refuse_mixed(func, op, args, tensors):
    "One device for all; but pointwise operations take CPU numbers without an axis, and the CPU may index the device."
    if op.copies or len(tensors) < 2: return
    if op.indexed:
        if not far(args[0]) and any(map(far, args[1])):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [args[0], *(a for a in args[2:3] if isinstance(a, torch.Tensor) and a.dim())]
    elif op.takes_numbers: tensors = [t for t in tensors if far(t) or t.dim()]
    if len({far(t) for t in tensors}) > 1:
        where = ", ".join(f"{list(t.shape)} on {'cuda:0' if far(t) else 'cpu'}" for t in tensors)
        raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                           f"cuda:0 and cpu! ({func}: {where})")


def run(func, args, kwargs):
    "One operation."
    given = leaves_of((args, list(kwargs.values())), [])
    named = [x.type for x in given if type(x) is torch.device]
    goes = "cuda" in named
    if not goes and not any(map(far, given)): return func(*args, **kwargs)
    op, tensors = op_of(func), [x for x in given if isinstance(x, torch.Tensor)]
    refuse_mixed(func, op, args, tensors)
    reads = far(args[0]) if op.indexed else any(map(far, tensors))
    if op.name == "copy_": goes, reads, here = far(args[0]), far(args[1]), far(args[0])
    else: here = goes or (reads and not named)
    dice = [g for g in given if isinstance(g, torch.Generator)] if op.draws else []
    if here and any(g.device.type != "cuda" for g in dice):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
    plain = lambda x: x.inner if type(x) is OnDevice else HOST if here and type(x) is torch.device else x
    plain_args, plain_kwargs = mapped(plain, tuple(args)), {k: mapped(plain, v) for k, v in kwargs.items()}
    if here: plain_kwargs.pop("pin_memory", None)
    if here and op.draws: out = draw(func, plain_args, plain_kwargs, dice)
    else: out = op.compute(*plain_args, **plain_kwargs)
    count(op, args, tensors, reads, goes, here, out)
    if not here: return args[0] if op.name == "copy_" else out
    out = mapped(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) and not far(x) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if op.shares else out


def count(op, args, tensors, reads, goes, here, out):
    "Whether the call is a kernel, sends a tensor to the device, or makes the CPU wait for it."
    at = line()
    if here: kernels[at] += 1
    if goes and not reads and tensors: uploads[at] += 1
    masks = op.indexed and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    answers = type(out) in (bool, int, float, complex) and not op.name.startswith("_fused_sdp")
    if reads and (not here or answers or masks or op.name in DATA_DECIDES): syncs[at] += 1


def draw(func, args, kwargs, given):
    "Random numbers from a generator of the device, its own one if none is given."
    source = given[0] if given else _own
    if given:
        twin = torch.Generator().manual_seed(0)
        twin.set_state(source.get_state())
        swap = lambda x: twin if isinstance(x, torch.Generator) else x
        try: return func(*mapped(swap, args), **{k: swap(v) for k, v in kwargs.items()})
        finally: source.set_state(twin.get_state())
    before = torch.get_rng_state()
    torch.set_rng_state(source.get_state())
    try: return func(*args, **kwargs)
    finally: source.set_state(torch.get_rng_state()); torch.set_rng_state(before)


class Present(TorchDispatchMode):
    "While it is on, there is a device."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})


class NoGrad(torch.no_grad):
    "In the place of torch.inference_mode."
    def __init__(self, mode=True): super().__init__()


def of_the_cpu(save):
    "A function of safetensors, which reads memory addresses."
    plain = lambda tensors: {k: t.inner if far(t) else t for k, t in tensors.items()}
    return lambda tensors, *args, **kwargs: save(plain(tensors), *args, **kwargs)


def in_this_thread() -> Present:
    "The mode, and what else torch keeps for each thread."
    torch._C._set_only_lift_cpu_tensors(True)               # torch.tensor(..., device="cuda") is a copy
    torch.autograd.set_multithreading_enabled(False)        # its backward pass stays in the thread that asks
    return Present()


def install():
    "Let torch believe in the device, for the rest of this process."
    global _own
    _own = torch.Generator(CUDA)
    says = dict(is_available=True, is_initialized=True, device_count=1, current_device=0, is_bf16_supported=True,
                get_device_name="a pretend device", get_device_capability=(9, 0), _lazy_init=None, synchronize=None)
    for name, answer in says.items(): setattr(torch.cuda, name, lambda *a, _answer=answer, **k: _answer)
    torch._C._cuda_init = lambda: None
    torch.cuda.manual_seed = torch.cuda.manual_seed_all = lambda seed: _own.manual_seed(seed)
    torch.cuda.get_rng_state = lambda *a: _own.get_state()
    torch.cuda.set_rng_state = lambda state, *a: _own.set_state(state)
    torch.__future__.set_swap_module_params_on_conversion(True)       # module.to("cuda") changes the kind of tensor
    torch.inference_mode = NoGrad                                     # its tensors would pass the mode by
    for name in ("save_file", "save"): setattr(safetensors.torch, name, of_the_cpu(getattr(safetensors.torch, name)))
    begin = threading.Thread.run
    def run_present(thread):
        with in_this_thread(): begin(thread)
    threading.Thread.run = run_present
    in_this_thread().__enter__()


if __name__ == "__main__":
    sys.modules["pretend_cuda"] = sys.modules["__main__"]             # so that what is run can import this one
    install()
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "-m": runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=False)
    else: runpy.run_path(sys.argv[0], run_name="__main__")

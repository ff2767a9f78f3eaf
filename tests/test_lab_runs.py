"Runs: whole or not at all, machine-neutral, stale when and only when something that decides the numbers changed."
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioengram.core import DiskError, ParameterError
from audioengram.lab import runs
from audioengram.lab.claims import claim_digits, format_claim, format_claims, make_claim
from audioengram.lab.drafts import cached, code_fingerprint
from audioengram.lab.freshness import why_stale
from audioengram.lab.pictures import save_svg
from audioengram.lab.provenance import RunError, figures_dir, made_here, neutral
from audioengram.lab.runs import Run, read_run
from audioengram.stages import measures, stage_versions


@pytest.fixture
def place(tmp_path, monkeypatch):
    "One folder for drafts and for what is published, so that a toy run is read back where it was written."
    for name in ("FIGURES", "RUNS"): monkeypatch.setenv(f"AUDIOENGRAM_{name}", str(tmp_path / "figures"))
    monkeypatch.delenv("AUDIOENGRAM_STAGE", raising=False)
    return tmp_path / "figures"


def publish(value=1.0, seed=0, name="toy", **extra):
    with Run(name, dict(seed=seed, lags=(1, 2), **extra), profile="smoke") as run:
        run.rows([dict(speaker=s, value=value + i) for i, s in enumerate("abc")])
        run.claim("mean", value + 1, value, value + 2, n=3, unit="speaker")
        run.input(codec=dict(name="nano", fingerprint="f00d"))
    return read_run(name)


def test_what_a_run_leaves(place):
    r = publish(seed=5, root=str(Path.home() / "audio" / "LibriSpeech"))
    assert sorted(p.name for p in place.iterdir()) == ["toy"]
    assert r.manifest["seed"] == 5 and r.manifest["parameters"]["lags"] == [1, 2] and r.check() == []
    assert r.manifest["inputs"] == {"codec": [{"name": "nano", "fingerprint": "f00d"}]}
    assert {"torch", "numpy"} <= r.manifest["versions"].keys() and r.manifest["started"].endswith("+00:00")
    text = (r.folder / "manifest.json").read_text()
    assert str(Path.home()) not in text and str(place) not in text and os.uname().nodename not in text
    pd.testing.assert_frame_equal(r.table(), pd.DataFrame(dict(speaker=list("abc"), value=[1.0, 2.0, 3.0])), check_dtype=False)
    with pytest.raises(RunError, match="There are results"): r.table("other")


@pytest.mark.parametrize("trouble", [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_earlier_results(place, trouble):
    before = {p.name: p.read_bytes() for p in publish().folder.iterdir()}
    with pytest.raises(trouble), Run("toy", {}) as run:
        run.rows(dict(speaker="z")); run.path("x.txt").write_text("half")
        raise trouble
    assert {p.name: p.read_bytes() for p in (place / "toy").iterdir()} == before
    assert [p.name for p in place.iterdir()] == ["toy"]


def test_disk_full_while_publishing(place, monkeypatch):
    before = publish().claims
    def full(*a): raise OSError(28, "No space left on device")
    with pytest.raises(DiskError, match="the disk is full: .*toy"), Run("toy", {}) as run:
        run.claim("n", 9, exact="count")
        monkeypatch.setattr(runs, "write_json", full)
    assert read_run("toy").claims == before and [p.name for p in place.iterdir()] == ["toy"]


def test_a_swap_cut_in_two_is_repaired(place):
    publish()
    (place / "toy").rename(place / ".toy.previous")             # killed between the two renames
    assert read_run("toy").claims["mean"]["n"] == 3 and not (place / ".toy.previous").exists()


def test_missing_and_damaged(place):
    with pytest.raises(RunError, match="audioengram run toy"): read_run("toy")
    publish(); (place / "toy" / "claims.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"): read_run("toy")
    with pytest.raises(ParameterError, match="cannot name a run"): Run("a/b", {})


def test_each_cause_of_staleness(place, monkeypatch):
    publish()
    now = dict(parameters=dict(seed=0, lags=[1, 2]), profile="smoke", inputs=dict(codec=dict(fingerprint="f00d")), here=True)
    assert why_stale("toy", **now) == []
    for change, word in ((dict(parameters=dict(seed=1)), "seed"), (dict(parameters=dict(new=1)), "new"), (dict(profile="full"), "profile"),
                         (dict(inputs=dict(codec=dict(fingerprint="beef"))), "codec")):
        assert [word in r for r in why_stale("toy", **{**now, **change})] == [True]
    manifest = place / "toy" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"made_by": {}', '"made_by": {"gap": 99}'))
    assert why_stale("toy", **now | dict(here=False)) == [f"stage gap was version 99, is {stage_versions()['gap']}"]
    (place / "toy" / "results.csv").write_text("speaker,value\na,0\n")
    assert why_stale("toy", **now | dict(here=False))[-1] == "results.csv changed by hand"


def test_what_ran_is_in_the_manifest_and_what_was_read_back_too(place, tmp_path):
    @measures("toy test stage", 7)
    def value(): return [dict(x=1.)]
    for _ in range(2):
        with Run("toy", {}, profile="smoke") as run: run.rows(cached(["toy"], lambda: value(), folder=tmp_path / "rows"))
        assert read_run("toy").manifest["made_by"] == {"toy test stage": 7}


def test_seconds_count_what_was_read_back(place, tmp_path):
    def slow(): time.sleep(.3); return [dict(x=1.)]
    for _ in range(2):
        with Run("toy", {}, profile="smoke") as run: run.rows(cached(["slow"], slow, folder=tmp_path / "rows"))
        assert read_run("toy").manifest["seconds"] >= .3


@pytest.mark.parametrize("damage", ["[]", "{}", '{"name": "toy"'])
def test_a_manifest_that_is_none(place, damage):
    publish(); (place / "toy" / "manifest.json").write_text(damage)
    with pytest.raises(RunError, match="manifest"): read_run("toy")


def test_results_of_a_clone_are_not_ours(place, monkeypatch, tmp_path):
    publish()
    assert made_here(place / "toy")
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path / "another machine"))
    assert why_stale("toy", here=True) == ["not yet reproduced on this machine"] and why_stale("toy") == []


# ---- claims

@pytest.mark.parametrize("bad", [dict(value=1.0), dict(value=1.0, lo=0.0, hi=2.0), dict(value=1.0, lo=2.0, hi=0.0, n=3),
                                 dict(value=float("nan"), exact=True), dict(value=np.inf, lo=0.0, hi=1.0, n=3)])
def test_claims_that_are_refused(bad):
    with pytest.raises(ParameterError): make_claim(**bad)


def test_a_claim_is_stated_once(place):
    with pytest.raises(ParameterError, match="twice"), Run("toy", {}) as run:
        run.claim("n", 1, exact="count"); run.claim("n", 2, exact="count")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e5))
def test_the_printed_interval_keeps_two_digits_of_its_width(value, half):
    c = make_claim(value, value - half, value + half, n=3)
    digits = claim_digits(c)
    true_half = (c["hi"] - c["lo"]) / 2
    assert true_half == 0 or 10.0 ** -digits <= true_half * 0.11 or digits == 0
    assert digits == 0 or true_half < 10.0 ** (2 - digits) * 1.0001


def test_quoting(place):
    publish(value=0.25)
    claims = dict(r=make_claim(-0.5, -0.6, -0.4, n=1200, unit="speaker", quantity="nats"), word=make_claim("fails", exact="verdict"))
    say = lambda s: format_claims(s, claims)
    assert say("{claim:r}") == "−0.50 [−0.60, −0.40] nats" and say("{claim:r|.1f}") == "−0.5 [−0.6, −0.4] nats"
    assert say("{claim:r|value}") == "−0.50 nats" and say("{claim:r|n}") == "1,200" and say("{claim:r|lo|.1f}") == "−0.6"
    assert say("{claim:r|full}").endswith("1200 speakers") and say("It {claim:word}.") == "It fails."
    assert say("{claim:toy/mean|value|.2f}") == "1.25"
    for wrong in ("{claim:x}", "{claim:toy/x}"):
        with pytest.raises(ParameterError, match="unknown claim"): say(wrong)
        assert format_claims(wrong, claims, strict=False) == wrong
    with pytest.raises(ParameterError, match="no interval|no lo"): format_claim(claims["word"], "lo")


# ---- cache and code

def test_cache_counts_calls_across_processes_and_survives_damage(tmp_path):
    (tmp_path / "job.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom audioengram.lab.drafts import cached\nseen = Path(sys.argv[1])\nK = int(sys.argv[2])\n"
        "def measure():\n    with seen.open('a') as f: f.write('x')\n    return [dict(k=K, ok=K in {1, 2, 'a', 'b'})]\n"
        "print(cached(['job'], measure, folder=seen.parent / 'rows').k[0])\n")
    log = tmp_path / "log"
    def go(k, hashseed):
        r = subprocess.run([sys.executable, tmp_path / "job.py", log, str(k)], env=dict(os.environ, PYTHONHASHSEED=str(hashseed)), capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        return int(r.stdout)
    assert (go(1, 0), go(1, 7), go(2, 0)) == (1, 1, 2) and log.read_text() == "xx"   # a global constant is part of the key
    for p in (tmp_path / "rows").glob("*.parquet"): p.write_bytes(p.read_bytes()[:20])
    assert go(1, 3) == 1 and log.read_text() == "xxx"                                # measured again, not returned broken
    assert not [p for p in (tmp_path / "rows").iterdir() if p.name.startswith(".")]


def test_cached_json_and_failures(tmp_path):
    assert cached("a", lambda: dict(x=[1, 2]), kind="json", folder=tmp_path) == dict(x=[1, 2])
    with pytest.raises(ZeroDivisionError): cached("b", lambda: 1 / 0, folder=tmp_path)
    assert len([p for p in tmp_path.iterdir() if not p.name.endswith(".made.json")]) == 1
    with pytest.raises(ParameterError): cached("c", dict, kind="pickle", folder=tmp_path)


@pytest.mark.parametrize("imports, call", [("from toy.b import helper", "helper"), ("from .b import helper", "helper"), ("from . import b", "b.helper"),
                                           ("import toy.b", "toy.b.helper"), ("from toy import b as c", "c.helper"), ("from toy import helper", "helper")])
def test_code_is_followed_however_it_is_imported(tmp_path, monkeypatch, imports, call):
    pkg = tmp_path / "toy"; pkg.mkdir()
    (pkg / "__init__.py").write_text("from .b import helper\n" if imports == "from toy import helper" else "")
    (pkg / "a.py").write_text(f"{imports}\nclass Model:\n    def run(self): return {call}(1)\ndef main(): return Model().run()\n")
    def state(body, unused="1", doc="D."):
        (pkg / "b.py").write_text(f'LIMIT = {body}\ndef helper(x):\n    "{doc}"\n    return x + LIMIT  # remark\ndef unused(): return {unused}\n')
        os.utime(pkg / "b.py", ns=(state.t, state.t)); state.t += 10**9
        return code_fingerprint("toy.a:main", package="toy")
    state.t = 10**18
    monkeypatch.syspath_prepend(str(tmp_path)); monkeypatch.delitem(sys.modules, "toy", raising=False)
    first = state("1")
    assert state("1", unused="2", doc="Other.") == first and state("2") != first
    for m in [m for m in sys.modules if m.split(".")[0] == "toy"]: del sys.modules[m]


def test_discussions_see_the_library_but_not_the_lab():
    found = code_fingerprint("audioengram.lab.figures", skip=())
    assert found != code_fingerprint("audioengram.lab.figures")          # skipped: nothing left to hash
    assert code_fingerprint("audioengram.core:fingerprint") != code_fingerprint("audioengram.core:spawn")


# ---- files

def test_neutral_names_places(monkeypatch, place):
    monkeypatch.setenv("AUDIOENGRAM_RUNS", str(place.parent / "runs"))
    assert neutral(f"{place}/toy/a.svg") == "figures/toy/a.svg" and neutral(f"at {Path.home()}") == "at ~"
    assert neutral(f"{sys.prefix}/lib/x.py:3") == "<python>/lib/x.py:3" and neutral("plain/relative and 1/2") == "plain/relative and 1/2"


def test_figures_dir_follows_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIOENGRAM_FIGURES", raising=False)
    (tmp_path / "settings.ini").touch(); (tmp_path / "nbs" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nbs" / "deep")
    assert figures_dir() == tmp_path.resolve() / "figures"


def test_svg_is_deterministic_light_and_accessible(tmp_path):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    def draw(n):
        fig, ax = plt.subplots(figsize=(3, 2)); ax.scatter(*np.random.default_rng(0).normal(size=(2, n)), s=1); ax.set_title("a < b"); plt.close(fig); return fig
    a, b = (save_svg(draw(n), tmp_path / f"{i}.svg", 'less < "more"').read_bytes() for i, n in enumerate((500, 500)))
    assert a == b and b"<title>less &lt; &quot;more&quot;</title>" in a and b"<text" in a and b"dc:date" not in a
    assert save_svg(draw(100_000), tmp_path / "big.svg").stat().st_size < 150_000
    with pytest.raises(RunError, match="kB"): save_svg(draw(1500), tmp_path / "heavy.svg", limit=20_000)
    assert not (tmp_path / "heavy.svg").exists()


def test_clips_are_short_mono_and_matched(place):
    from audioengram.data.audio import load_audio, loudness
    t = np.arange(32000) / 16000
    with Run("toy", {}) as run:
        run.clip("quiet", 0.01 * np.sin(2 * np.pi * 440 * t), 16000); run.clip("loud", 0.5 * np.sin(2 * np.pi * 440 * t), 16000)
        with pytest.raises(ParameterError, match="lasts"): run.clip("long", np.zeros(16000 * 60), 16000)
        with pytest.raises(ParameterError, match="one mono"): run.clip("stereo", np.zeros((2, 100)), 16000)
    r = read_run("toy")
    levels = [loudness(*load_audio(r.clip(c))) for c in ("quiet", "loud")]
    assert abs(levels[0] - levels[1]) < 0.3 and json.loads((r.folder / "manifest.json").read_text())["clips"]["loud"]["seconds"] == 2

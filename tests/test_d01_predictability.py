"Discussion d01: what a smoke run publishes, that claims follow from rows, and that independent frames climb one rung only."
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from audioengram.data.latents import Windows
from audioengram.discussions import d01_predictability as d01


@pytest.fixture(scope="module")
def result(smoke):
    return smoke(d01.NAME)


def test_what_a_run_publishes(result):
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "common", "pit", "components", "examples", "sizes", "gains"}
    assert set(result.manifest["figures"]) == {"ladder", "lags", "heads", "calibration", "components"}
    models = set(result.table().model)
    assert {"step-diagonal", "marginal-full", "marginal", "diagonal marginal", "ridge-1", "MDN", d01.MAIN, "factored", "stand-still", "copy-last"} <= models
    assert result.clip("synthetic-nano_original").is_file() and any("component" in c for c in result.manifest["clips"])
    assert sum(p.stat().st_size for p in result.folder.iterdir()) < 3_000_000
    assert not re.search(r'"/\w', (result.folder / "manifest.json").read_text())


def test_claims_follow_from_the_rows(result):
    rows = result.table()
    of = lambda model: rows[(rows.model == model) & (rows.lag == 1)].set_index("speaker")
    gain = ((of("marginal").nll_above - of(d01.MAIN).nll_above) / of(d01.MAIN).above).mean()     # each speaker counts once
    assert result.claims["main.gain"]["value"] == pytest.approx(gain, rel=1e-5)
    assert result.claims["main.bits"]["value"] == pytest.approx(gain / math.log(2) * 12.5, rel=1e-5)
    rungs = [result.claims[f"main.{k}"]["value"] for k in ("differencing", "shape", "slow", "dynamics")]
    assert result.claims["main.total"]["value"] == pytest.approx(sum(rungs), rel=1e-5)


def test_tables_for_people(result):
    text = d01.phase1_table(result)
    assert "| semi-tied MDN | 1 |" in text and "| marginal-full |" not in text and not re.search(r"\bnan\b", text)
    assert "short-horizon dynamics" in d01.verdict_table(result)


class Store:
    "Frames that are independent of each other: a store without dynamics."
    def __init__(self, utterances=30, frames=80, D=8, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.z = torch.randn(utterances * frames, D, generator=g) @ torch.randn(D, D, generator=g)
        self.offsets, self.dim, self.energy = np.arange(utterances + 1) * frames, D, np.linspace(-60, -20, utterances * frames)
        self.index = pd.DataFrame(dict(utterance_id=[f"u{i}" for i in range(utterances)], speaker_id=[f"s{i // 3}" for i in range(utterances)]))
        self.fingerprint, self.meta = f"independent-{seed}", dict(codec=dict(name="none"))
    def tensor(self, device="cpu"): return self.z.to(device)
    def windows(self, ids, length, lag): return Windows(self, np.array([int(i[1:]) for i in ids]), length, lag)


def test_independent_frames_have_one_rung_and_a_cosine_of_one_over_root_two(monkeypatch):
    store = Store()
    split = SimpleNamespace(train_utterances=[f"u{i}" for i in range(18)], valid_utterances=["u18", "u19", "u20"], eval_utterances=[f"u{i}" for i in range(21, 30)])
    monkeypatch.setattr(d01, "describe_components", lambda *a: (pd.DataFrame(dict(component=[0])), pd.DataFrame(dict(component=[0]))))
    how = replace(d01.Recipe.of("smoke"), lags=[1, 4], scored=400)
    tables = d01.measure_store(store, split, how)
    rungs = d01.ladder_table(tables, 200).set_index("rung").value
    covariance = torch.cov(store.z.T)
    assert rungs["differencing"] == pytest.approx(4 * math.log(2), abs=.25)                    # D/2 ln 2
    full = .5 * (covariance.diagonal().log().sum() - torch.logdet(covariance)).item()         # what leaning alone is worth
    assert rungs["marginal shape"] == pytest.approx(full, abs=.4)
    assert abs(rungs["slow context"]) < .25 and abs(rungs["short-horizon dynamics"]) < .25
    table = d01.gain_table(tables, 12.5, 200).query("lag == 1").set_index("model")
    assert table.cosine["marginal"] == pytest.approx(table.cosine[d01.MAIN], abs=.03)          # knowing the context adds no direction
    plane = torch.randn(4000, 2, 400, generator=torch.Generator().manual_seed(1))
    assert torch.cosine_similarity(-plane[:, 0], plane[:, 1] - plane[:, 0], dim=1).mean() == pytest.approx(2**-.5, abs=.002)

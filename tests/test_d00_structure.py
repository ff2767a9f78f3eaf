"Discussion d00: which cases run, what is published, and what is kept where the data are not at hand."
import json
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from audioengram.core import CorpusError
from audioengram.data.cases import Case
from audioengram.discussions import d00_structure as d00
from audioengram.lab import studies
from audioengram.lab.runs import read_run

HOW = d00.Recipe.of("smoke")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A published smoke run of two cases: one corpus under two codecs."
    home = tmp_path_factory.mktemp("figures")
    d00.run("smoke", cases="synthetic:nano; synthetic:nano+pca16", lags=(1, 2), folder=home / d00.NAME)
    return home / d00.NAME


@pytest.fixture
def lost(monkeypatch):
    "The second case's corpus is not on this machine."
    honest = studies.open_case
    def open_case(case, *how):
        if "pca16" in case.codec: raise CorpusError("is not on this machine", "/data/voices", "Fetch it")
        return honest(case, *how)
    monkeypatch.setattr(studies, "open_case", open_case)


def test_only_the_quick_and_full_profiles_use_the_real_keys():
    assert d00.Recipe.of("smoke").small and not d00.Recipe.of("quick").small and d00.Recipe.of("quick").min_count == 100
    assert d00.Recipe.of("quick").max_seconds == 4 * 3600 and d00.Recipe.of("full").max_seconds is None
    assert json.loads(json.dumps(asdict(d00.Recipe.of("quick", lags=np.array([1, 2]))))) == asdict(d00.Recipe.of("quick", lags=(1, 2)))


def test_training_means_never_see_an_evaluation_utterance(monkeypatch):
    "The windows that `measure_store` asks for: training and validation utterances on one side, evaluation on the other, one threshold."
    asked, split = [], SimpleNamespace(train_utterances=("a", "b"), valid_utterances=("c",), eval_utterances=("x",))
    class Store:
        def median_energy(self, ids): assert ids == ("a", "b", "c"); return -30.
        def windows(self, ids, **options): asked.append((ids, options)); return options["slice"]
    monkeypatch.setattr(d00, "phase0", lambda slices, *args, **options: SimpleNamespace(**{t: pd.DataFrame(dict(one=[1])) for t in ("rows", "summary", "readers", "confidence", "cells")}))
    found = d00.measure_store(Store(), split, replace(HOW, lags=[1, 4]))
    assert {ids for ids, _ in asked} == {("a", "b", "c"), ("x",)} and {o["energy_threshold"] for _, o in asked} == {-30.}
    assert sorted({(o["lag"], o["slice"]) for _, o in asked}) == [(k, s) for k in (1, 4) for s in ("all", "high_energy", "medial")]
    assert found["rows"].lag.tolist() == [1, 4] and found["cells"].lag.tolist() == [1]


def test_what_a_run_publishes(folder):
    result = read_run(folder)
    assert result.check() == [] and result.manifest["profile"] == "smoke"
    assert set(result.table_names) == {"results", "summary", "readers", "confidence", "cells"}
    assert set(result.manifest["figures"]) == {"ratio", "slices", "speakers", "sizes", "spread", "means", "confidence", "readers"}
    assert set(result.table().case) == {"synthetic-nano", "synthetic-nano+pca16"}
    assert {c["kept"] for c in json.loads((folder / "cases.json").read_text())} == {False}
    held = result.table().query("split == 'held'")
    assert len(set(held.speaker)) == 2 and held.within.gt(0).all()
    for name in ("synthetic-nano_original", "synthetic-nano_round_trip", "synthetic-nano_pca16_original"): assert result.clip(name).is_file()
    assert sum(p.stat().st_size for p in folder.iterdir()) < 3_000_000
    assert not re.search(r'"/\w', (folder / "manifest.json").read_text() + (folder / "cases.json").read_text())


def test_claims_follow_from_the_rows(folder):
    result = read_run(folder)
    held = result.table().query("split == 'held' and slice == 'all' and lag == 1 and case == 'synthetic-nano'")
    first = held[held.key == d00.SMALL_KEYS[0].name]
    assert result.claims["main.ratio_key1"]["value"] == pytest.approx(first.within.sum() / first.total.sum(), rel=1e-5)
    assert result.claims["main.ratio_key1"] == result.claims["synthetic-nano.ratio_key1"]
    readers = result.table("readers").query("slice == 'all' and lag == 1 and case == 'synthetic-nano'")
    r2 = {k: 1 - readers[k].sum() / readers.total.sum() for k in d00.READERS}
    assert result.claims["main.r2_flattened"]["value"] == pytest.approx(r2["flattened"], rel=1e-5)
    assert result.claims["main.beyond"]["value"] == pytest.approx(r2["flattened"] - r2["diagonal"], abs=1e-5)
    assert result.claims["main.outcome"]["value"] in ("passes", "fails")


def test_tables_for_people(folder):
    text = d00.decision_tables(read_run(folder))
    assert text.count("| PCA 4 + k-means 16 |") == 4 and "(reference)" not in text     # two lags of two cases; the reference decides nothing
    assert "synthetic × nano+pca16" in d00.case_table(read_run(folder))
    assert studies.as_markdown(pd.DataFrame([dict(a=1.23456, b=True, c=float("nan"), d="x")])).splitlines()[-1] == "| 1.235 | yes | – | x |"


def test_measuring_again_reads_back(folder, monkeypatch):
    def measure_store(*_): pytest.fail("measured again")
    tables, *_ = studies.measure_case(studies.Study(d00.NAME, measure_store, ("rows",)), Case("synthetic", "nano"), d00.Recipe.of("smoke", lags=(1, 2)))
    published = read_run(folder).table().query("case == 'synthetic-nano'")
    assert np.allclose(tables["rows"].query("split == 'held'").within, published.query("split == 'held'").within, rtol=1e-6)


def run_where_the_second_is_lost(folder, monkeypatch, tmp_path, **options):
    monkeypatch.setenv("AUDIOENGRAM_FIGURES", str(folder.parent))
    options = dict(cases="synthetic:nano; synthetic:nano+pca16", lags=(1, 2)) | options
    return d00.run("smoke", folder=tmp_path / d00.NAME, **options)


def test_published_rows_are_kept_and_labelled(folder, lost, monkeypatch, tmp_path, capsys):
    result = run_where_the_second_is_lost(folder, monkeypatch, tmp_path)
    assert "are kept, since is not on this machine" in capsys.readouterr().out
    second = result.table().query("case == 'synthetic-nano+pca16'").reset_index(drop=True)
    before = read_run(folder).table().query("case == 'synthetic-nano+pca16'").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, before)
    about = json.loads((result.folder / "cases.json").read_text())
    assert [c["kept"] for c in about] == [False, True] and about[1]["measured"]
    entry = next(e for e in result.manifest["inputs"]["case"] if e["name"] == "synthetic-nano+pca16")
    assert entry["kept"] and entry["measured"] == about[1]["measured"]
    assert result.clip("synthetic-nano_pca16_original").is_file() and result.check() == []
    assert result.claims["synthetic-nano+pca16.ratio_best"]["value"] == pytest.approx(read_run(folder).claims["synthetic-nano+pca16.ratio_best"]["value"], rel=1e-5)
    assert "rows published on" in d00.decision_tables(result)


@pytest.mark.parametrize(("change", "reason"), [("code", "of other measuring code"), ("parameters", "of other parameters"), ("folder", "nothing was published")])
def test_rows_that_answer_another_question_are_left_out(folder, lost, monkeypatch, tmp_path, capsys, change, reason):
    options = dict(lags=(1,)) if change == "parameters" else {}
    if change == "code": monkeypatch.setattr(studies, "moved_stages", lambda made_by: ["stage structure was version 1, is 2"])
    home = tmp_path / "empty" / d00.NAME if change == "folder" else folder
    result = run_where_the_second_is_lost(home, monkeypatch, tmp_path, **options)
    assert reason in capsys.readouterr().out and set(result.table().case) == {"synthetic-nano"}


def test_the_first_case_must_be_measured(lost, tmp_path):
    with pytest.raises(CorpusError, match="not on this machine"):
        d00.run("smoke", cases="synthetic:nano+pca16", folder=tmp_path / d00.NAME)
    assert not (tmp_path / d00.NAME).exists()

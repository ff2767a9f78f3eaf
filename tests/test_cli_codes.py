"`audioengram codes …`: what it writes, what it refuses, and that a refusal writes nothing."
import json

import numpy as np
import pytest
from codes_toy import folder, model
from typer.testing import CliRunner

from audioengram.cli_codes import app
from audioengram.codes.commands import apply_edit, parse_region
from audioengram.codes.grid import CodeGrid, Region
from audioengram.codes.modelfile import save_model
from audioengram.core import AudioengramError, ParameterError
from audioengram.data.audio import audio_info, load_audio, save_audio


def call(*args): return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with a model that has a prior, one that has none, a sound and its grid."
    home = tmp_path_factory.mktemp("cli")
    save_model(model(prior=True), home / "full.distill"); save_model(model(), home / "bare.distill")
    save_audio(home / "sound.wav", np.random.default_rng(0).normal(size=16_000) * .1, 16_000)
    assert call("encode", home / "full.distill", home / "sound.wav", home / "g.json").exit_code == 0
    return home


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_generate_writes_every_format_and_the_seed_decides(home, tmp_path, suffix):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        r = call("generate", home / "full.distill", tmp_path / f"{name}{suffix}", "--seconds", .5, "--seed", seed, "--channels", 2, "--rate", 48_000, "--top-p", .9)
        assert r.exit_code == 0, r.output
    info = audio_info(tmp_path / f"a{suffix}")
    assert info.channels == 2 and info.rate == 48_000 and info.seconds == pytest.approx(.5, abs=.08)
    a, b, c = (load_audio(tmp_path / f"{n}{suffix}")[0] for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_folder_of_kinds_is_asked_for_by_name(home, tmp_path):
    for kind, hz in (("low", 110), ("high", 1760)):
        for i in range(4):
            wav = .3 * np.sin(2 * np.pi * hz * (1 + .05 * i) * np.arange(12_000) / 24_000)
            (tmp_path / "kit" / kind).mkdir(parents=True, exist_ok=True)
            save_audio(tmp_path / "kit" / kind / f"{i}.wav", wav, 24_000)
    args = ("train-prior", home / "bare.distill", tmp_path / "kit", "--out", tmp_path / "kit.distill", "--steps", 3)
    assert call(*args, "--labels", "(").exit_code == 1
    r = call(*args, "--json")
    assert r.exit_code == 0 and json.loads(r.output)["labels"] == "high, low", r.output
    told = json.loads(r.output)
    assert 0 <= told["coverage"] <= 1 and told["coverage_held"] > 0 and .6 <= told["temperature"] <= 1
    assert call("generate", tmp_path / "kit.distill", tmp_path / "low.wav", "--seconds", .3, "--label", "low").exit_code == 0
    wrong = call("generate", tmp_path / "kit.distill", tmp_path / "mid.wav", "--label", "mid")
    assert "It has high, low" in str(wrong.exception) and not (tmp_path / "mid.wav").exists()
    assert call(*args, "--labels", "none", "--overwrite").exit_code == 0
    assert "no label" in str(call("generate", tmp_path / "kit.distill", tmp_path / "low2.wav", "--label", "low").exception)


def test_continue_starts_with_what_it_was_given(home, tmp_path):
    assert call("generate", home / "full.distill", tmp_path / "long.wav", "--seconds", .5, "--continue", home / "sound.wav").exit_code == 0
    assert audio_info(tmp_path / "long.wav").seconds == pytest.approx(1.5, abs=.15)


def test_edit_and_decode(home, tmp_path):
    r = call("edit", home / "full.distill", home / "g.json", tmp_path / "h.json", "--do", "set 3,1,0 5", "--do", "swap 0:2 10:12", "--do", "mute :,:,2", "--do", "blend 4:6 12:14 .5", "--do", "infill 7:9,1 3")
    assert r.exit_code == 0, r.output
    before, after = (CodeGrid.load(p, model(prior=True)).codes for p in (home / "g.json", tmp_path / "h.json"))
    assert after[3, 1, 0] == 5 and (after[0:2, :, :2] == before[10:12, :, :2]).all() and (after[14:, :, 2] == -1).all()
    assert call("decode", home / "full.distill", tmp_path / "h.json", tmp_path / "h.wav", "--bits", 24).exit_code == 0
    assert audio_info(tmp_path / "h.wav").seconds == pytest.approx(1., abs=.01)


def test_health_and_info_speak_json(home):
    told = json.loads(call("info", home / "full.distill", "--json").output)
    assert told["prior"]["hidden"] == 16 and len(told["training_files"]) == 4 and told["licences"] == "unknown"
    told = json.loads(call("health", home / "full.distill", "--json").output)
    assert len(told["levels"]) == 3 and told["verdict"] and told["action"]
    assert "utilisation" in json.dumps(json.loads(call("health", home / "bare.distill", "--folder", folder(2), "--json").output))


def test_list_compare_and_palette(home, tmp_path):
    told = {r["file"]: r for r in json.loads(call("list", home, "--json").output)}
    assert told["full.distill"]["prior"] and not told["bare.distill"]["prior"] and told["full.distill"]["learnt"] == 3
    assert "holds no .distill file" in call("list", tmp_path).output
    told = json.loads(call("compare", folder(2), home / "full.distill", home / "bare.distill", "--json").output)
    assert len(told) == 2 and told[0]["distance"] <= told[1]["distance"] < told[1]["silence"] * 2
    r = call("palette", home / "bare.distill", tmp_path / "p", "--level", 2)
    assert r.exit_code == 0 and len(list((tmp_path / "p").glob("level2_code*.wav"))) == 8
    r = call("palette", home / "bare.distill", tmp_path / "p")
    assert "not empty" in str(r.exception)


def test_one_shots_and_density(home, tmp_path):
    for name, args in (("a", ("--mode", "one-shot")), ("b", ("--density", 2))):
        assert call("generate", home / "full.distill", tmp_path / f"{name}.wav", "--seconds", 1, *args).exit_code == 0
    assert audio_info(tmp_path / "a.wav").seconds <= audio_info(tmp_path / "b.wav").seconds == pytest.approx(1., abs=.05)
    assert "no mode 'loop'" in str(call("generate", home / "full.distill", tmp_path / "c.wav", "--mode", "loop").exception)


def test_a_rhythm_a_preset_and_their_mistakes(home, tmp_path):
    write = lambda name, *args: call("generate", home / "full.distill", tmp_path / name, "--seconds", 2, *args)
    assert write("r.wav", "--rhythm", "x...", "--bpm", 120, "--preset", "close").exit_code == 0
    assert audio_info(tmp_path / "r.wav").seconds == pytest.approx(2., abs=.05)
    for args, says in ((("--rhythm", "x-x"), "cannot read the rhythm"), (("--preset", "loud"), "no preset 'loud'"), (("--rhythm", "x", "--mode", "one-shot"), "without a prompt")):
        assert says in str(write("no.wav", *args).exception) and not (tmp_path / "no.wav").exists()
    assert write("p.wav", "--preset", "wild").exit_code == write("q.wav", "--preset", "wild", "--temperature", 1).exit_code == write("s.wav").exit_code == 0
    wild, mended, plain = ((tmp_path / f"{n}.wav").read_bytes() for n in "pqs")
    assert wild != plain == mended                                       # what is told goes before the preset


def test_blends_and_tags(home, tmp_path):
    save_audio(tmp_path / "b.wav", np.random.default_rng(1).normal(size=20_000) * .1, 16_000)
    args = ("blend", home / "full.distill", home / "sound.wav", tmp_path / "b.wav")
    assert call(*args, tmp_path / "c.wav", "--ratio", .3).exit_code == 0
    assert call(*args, tmp_path / "d.wav", "--other", home / "bare.distill").exit_code == 0
    assert audio_info(tmp_path / "c.wav").seconds == audio_info(tmp_path / "d.wav").seconds == pytest.approx(1.25, abs=.01)    # the longer of the two
    (tmp_path / "m.distill").write_bytes((home / "bare.distill").read_bytes())
    assert call("tag", tmp_path / "m.distill", "--add", "dry", "--add", "drums").output == "drums, dry\n"
    assert [r["tags"] for r in json.loads(call("list", tmp_path, "--tag", "dry", "--json").output)] == ["drums, dry"]
    assert "with the tag wet" in call("list", tmp_path, "--tag", "wet").output
    assert "is no tag" in str(call("tag", tmp_path / "m.distill", "--add", "a, b").exception)


def test_a_collapsed_codebook_has_an_exit_code_of_its_own(home, tmp_path):
    import copy
    poor = copy.deepcopy(model())
    poor.about["health"] = [dict(r, utilisation=.1, dead=7) for r in poor.about["health"]]
    save_model(poor, tmp_path / "poor.distill")
    r = call("health", tmp_path / "poor.distill")
    assert r.exit_code == 2 and "Collapsed" in r.output


@pytest.mark.parametrize("args, says", [
    (("generate", "{home}/bare.distill", "{tmp}/x.wav"), "has no prior"), (("generate", "{home}/full.distill", "{tmp}/x.wav", "--temperature", -1), "temperature is"),
    (("generate", "{home}/full.distill", "{tmp}/x.xyz", "--seconds", .1), "cannot write the suffix"), (("generate", "{home}/full.distill", "{home}/sound.wav", "--seconds", .1), "is there already"),
    (("encode", "{home}/full.distill", "{home}/nothing.wav", "{tmp}/x.json"), "file not found"), (("encode", "{home}/full.distill", "{home}/sound.wav", "{home}/g.json"), "is there already"),
    (("decode", "{home}/full.distill", "{home}/sound.wav", "{tmp}/x.wav"), "not valid JSON"), (("edit", "{home}/full.distill", "{home}/g.json", "{tmp}/x.json", "--do", "paint 3"), "unknown edit 'paint'"),
    (("info", "{home}/sound.wav"), "is no model file"), (("train", "{tmp}", "{tmp}/x.distill"), "holds no recording"), (("train-prior", "{home}/full.distill", "{tmp}"), "holds no recording")])
def test_mistakes_are_one_sentence_and_write_nothing(home, tmp_path, args, says):
    before = {p.name: p.read_bytes() for p in home.iterdir()}
    r = call(*(a.format(home=home, tmp=tmp_path) if isinstance(a, str) else a for a in args))
    assert r.exit_code != 0 and isinstance(r.exception, AudioengramError) and says in str(r.exception) and "\n" not in str(r.exception)
    assert not list(tmp_path.iterdir()) and {p.name: p.read_bytes() for p in home.iterdir()} == before


def test_regions_and_edits_are_read():
    assert parse_region("4:8,1,:") == Region((4, 8), (1, 2), (None, None)) and parse_region("3") == Region((3, 4))
    for bad in ("a", "1:2:3", "1,2,3,4", ""):
        with pytest.raises(ParameterError, match="cannot read the region"): parse_region(bad)
    grid = CodeGrid(model(), np.zeros((4, 4, 3), int))
    for bad, says in (("set 1,1", "not complete"), ("set 1,1,1 x", "cannot read the edit"), ("blend 0:1 1:2 much", "cannot read the edit"), ("swap 0:1", "not complete")):
        with pytest.raises(ParameterError, match=says): apply_edit(grid, bad)
    assert not grid.done


def test_names_are_refused_before_the_work(home, tmp_path, monkeypatch):
    "Training and writing take minutes; a name that cannot be written is refused before."
    from audioengram.codes import modelfile, prior, recordings, training, writing
    def never(*_, **__): raise AssertionError("the work has begun")
    for module in (recordings, training): monkeypatch.setattr(module, "read_recordings", never)
    monkeypatch.setattr(prior, "fit_prior", never)
    monkeypatch.setattr(writing, "generate", never)
    monkeypatch.setattr(modelfile, "load_model", never)
    (tmp_path / "taken.distill").mkdir()
    for out in ("voice.zip", "voice", "taken.distill", "sub/voice.safetensors"):
        for call_ in (("train", home, tmp_path / out), ("train-prior", home / "full.distill", home, "--out", tmp_path / out)):
            r = call(*call_)
            assert r.exit_code and isinstance(r.exception, AudioengramError), (call_, r.exception)
    for args in (("generate", home / "full.distill", tmp_path / "a.xyz"), ("decode", home / "full.distill", home / "g.json", tmp_path / "a.m4a"), ("generate", home / "full.distill", home / "sound.wav")):
        r = call(*args)
        assert r.exit_code and isinstance(r.exception, AudioengramError), (args, r.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.distill"]

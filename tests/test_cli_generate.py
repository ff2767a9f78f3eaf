"The commands: a recording goes on, and what cannot go on is refused in one sentence."
import io
import json
import math
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from audioengram.cli_generate import PIPE, app, check_places, generate, judge
from audioengram.core import AudioengramError, AudioError, ModelFileError, ParameterError
from audioengram.data.audio import audio_info, load_audio, save_audio
from audioengram.dynamics.generate import stream_recording
from audioengram.dynamics.sequence import SequenceConfig, SequenceModel
from audioengram.dynamics.sequence_file import SHIPPED_SEQUENCE, load_sequence, save_sequence

runner = CliRunner()
commands = typer.Typer()
commands.command()(generate)
commands.command()(judge)
commands.add_typer(app, name="sequence")


def call(*words): return runner.invoke(commands, [str(w) for w in words])


def refused(error, text, *words):
    r = call(*words)
    assert isinstance(r.exception, error) and text in str(r.exception), r.output
    assert str(r.exception).count("\n") == 0                                     # one sentence, and a remedy
    return r


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A prompt, a small model of nano's latents with a voice and one without."
    from audioengram.codecs import get_codec
    folder, codec = tmp_path_factory.mktemp("generate"), get_codec("nano")
    t = np.arange(32_000) / 16_000
    save_audio(folder / "a.wav", .3 * np.sin(2 * np.pi * 150 * t) * (1 + np.sin(2 * np.pi * 3 * t)) / 2, 16_000)
    save_audio(folder / "b.flac", .3 * np.sin(2 * np.pi * 150 * np.arange(88_200) / 44_100), 44_100)
    about = dict(codec="nano", codec_fingerprint=codec.fingerprint, frame_rate=codec.frame_rate)
    small = dict(width=16, layers=1, heads=2, hidden=16, components=2)
    torch.manual_seed(0)
    frames = torch.randn(3000, 64)
    voice = SequenceConfig(**small, conditions=(("voice", 128),), anchor="prompt")
    save_sequence(SequenceModel(voice).set_units(frames, {"voice": torch.randn(50, 128)}), folder / "voice.safetensors",
                  about)
    save_sequence(SequenceModel(SequenceConfig(**small)).set_units(frames), folder / "bare.safetensors", about)
    save_sequence(SequenceModel(SequenceConfig(**small)), folder / "other.safetensors",
                  about | dict(codec_fingerprint="0123"))
    return folder


def words(home, out, *more, prompt="a.wav", model="voice.safetensors"):
    return ("generate", "--prompt", home / prompt, "--out", out, "--model", home / model, "--seconds", 1, *more)


def test_it_goes_on_and_the_seed_decides(home, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        r = call(*words(home, tmp_path / f"{name}.wav", "--seed", seed, "--guidance", 1.5, "--temperature", .8,
                        "--noise", .1))
        assert r.exit_code == 0 and r.output.strip() == str(tmp_path / f"{name}.wav"), r.output
    assert audio_info(tmp_path / "a.wav").seconds == pytest.approx(3., abs=.09)          # 2 s of prompt, 1 s more
    a, b, c = (load_audio(tmp_path / f"{n}.wav")[0] for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_another_rate_is_resampled_and_other_formats_are_written(home, tmp_path):
    assert call(*words(home, tmp_path / "x.ogg", prompt="b.flac", model="bare.safetensors")).exit_code == 0
    info = audio_info(tmp_path / "x.ogg")
    assert info.seconds == pytest.approx(3., abs=.09) and info.rate == 16_000


def heard_of(data: bytes) -> np.ndarray:
    "Samples of a WAV stream whose length was not known."
    wav, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 16_000 and data[:4] == b"RIFF"
    return wav


def player_on(path, monkeypatch, name="aplay", status=0):
    "A stand-in for a player, the only program on PATH: keeps what it hears."
    place = path / "bin"
    place.mkdir(exist_ok=True)
    player = place / name
    player.write_text(f"#!{sys.executable}\nimport sys\nopen({str(path / 'heard')!r}, 'wb').write(sys.stdin.buffer.read())\n"
                      f"sys.exit({status})\n")
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(place))


def test_a_player_and_a_pipe_hear_what_the_file_holds(home, tmp_path, monkeypatch):
    assert call(*words(home, tmp_path / "a.wav", "--seed", 3)).exit_code == 0
    file = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    assert len(file) == pytest.approx(48_000, abs=1400)
    sent = runner.invoke(commands, [str(w) for w in words(home, "-", "--seed", 3)])
    assert sent.exit_code == 0 and np.array_equal(heard_of(sent.stdout_bytes), file)
    player_on(tmp_path, monkeypatch)
    r = call(*words(home, tmp_path / "b.wav", "--seed", 3, "--play"))                 # heard and written
    assert r.exit_code == 0 and np.array_equal(heard_of((tmp_path / "heard").read_bytes()), file)
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], file)


def test_sound_that_nobody_can_hear_is_refused_before_it_is_made(home, tmp_path, monkeypatch):
    ask = ("generate", "--prompt", home / "a.wav", "--model", home / "voice.safetensors")
    refused(ParameterError, "nobody would hear it. Give --out FILE, --out - or --play", *ask)
    refused(ParameterError, "exclude each other", *ask, "--play", "--out", "-")
    player_on(tmp_path, monkeypatch, status=3)
    refused(AudioError, "the player aplay gave up (exit status 3)", *ask, "--seconds", 1, "--play")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(AudioError, "no player is on PATH. Install ffmpeg", *ask, "--play")
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(ParameterError, match="fill the terminal"): check_places(PIPE, False)


def test_the_first_sound_comes_before_half_a_second_of_computing(home, monkeypatch):
    "It is the prompt's, while no frame of what follows has been drawn."
    from audioengram.codecs import get_codec
    codec, model = get_codec("nano"), load_sequence(SHIPPED_SEQUENCE if SHIPPED_SEQUENCE.is_file() else home / "voice.safetensors")
    drawn, sample = [], model.head.sample
    monkeypatch.setattr(model.head, "sample", lambda *a: drawn.append(1) or sample(*a))
    began = time.process_time()
    prompt, pieces = stream_recording(home / "a.wav", model, codec, 1.)
    first = next(len(wav) for _, wav in pieces if len(wav))
    assert time.process_time() - began < .5 and first >= 960 and not drawn
    rest = [len(wav) for _, wav in pieces]
    assert max(rest) <= 4 * 1280 and first + sum(rest) == codec.samples(prompt.shape[1] + 12)
    assert len(drawn) == 12


def test_what_cannot_go_on_is_refused_in_a_sentence(home, tmp_path):
    t = np.arange(16_000) / 16_000
    save_audio(tmp_path / "short.wav", .3 * np.sin(2 * np.pi * 150 * t[:900]), 16_000)
    save_audio(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    import soundfile
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.safetensors").write_bytes((home / "bare.safetensors").read_bytes()[:-5])
    out = tmp_path / "out.wav"
    refused(AudioError, "shorter than a frame of nano, 80 ms", *words(home, out, prompt=tmp_path / "short.wav"))
    refused(AudioError, "is silence", *words(home, out, prompt=tmp_path / "silent.wav"))
    refused(AudioError, "NaN", *words(home, out, prompt=tmp_path / "nan.wav"))
    refused(AudioError, "not audio", *words(home, out, prompt=tmp_path / "text.wav"))
    refused(AudioError, "file not found", *words(home, out, prompt=tmp_path / "none.wav"))
    refused(ModelFileError, "not of this nano", *words(home, out, model="other.safetensors"))
    refused(ModelFileError, "damaged", *words(home, out, model=tmp_path / "cut.safetensors"))
    refused(ModelFileError, "no such file", *words(home, out, model="none.safetensors"))
    refused(ParameterError, "guidance=2 needs a condition, and this model has none",
            *words(home, out, "--guidance", 2, model="bare.safetensors"))
    assert not out.exists()
    out.write_bytes(b"mine")
    refused(ParameterError, "is there already", *words(home, out))
    assert out.read_bytes() == b"mine" and call(*words(home, out, "--overwrite")).exit_code == 0
    assert call(*words(home, tmp_path / "y.wav", "--temperature", -1)).exit_code == 2   # the shell's own complaint


def test_a_folder_is_judged_beside_what_really_followed(tmp_path):
    rng = np.random.default_rng(0)
    for part, smooth in (("prompts", 1), ("real", 1), ("made", 8)):
        for who in range(4):
            wav = np.convolve(rng.standard_normal(40_000), np.ones(smooth) / smooth, "same")
            save_audio(tmp_path / part / f"s{who}-1.flac", .1 * wav, 16_000)
    folders = [w for part in ("prompts", "real", "made") for w in (f"--{part}", tmp_path / part)]
    r = call("judge", *folders, "--json", "--name", "hum")
    rows = json.loads(r.output)
    area = next(x for x in rows if x["quantity"] == "area, last 3 s")
    assert {x["system"] for x in rows} == {"hum"} and area["value"] > .9 and area["n"] == 4
    assert "| hum |" in call("judge", *folders, "--name", "hum").output
    (tmp_path / "made" / "s3-1.flac").rename(tmp_path / "made" / "other.flac")
    refused(ParameterError, "together, or --call alone", "judge", "--prompts", tmp_path / "prompts")
    refused(AudioError, "is no folder", "judge", *folders[:-1], tmp_path / "none")
    refused(ParameterError, "cannot be called", "judge", "--call", "no.such:thing")


def test_training_from_the_shell_resumes_and_its_model_speaks(home, tmp_path, trackio, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "anna/space")                 # of another project: nothing is sent from here
    (tmp_path / "r.json").write_text(json.dumps(dict(recipe="small", steps=4, validate_every=2, rows=2,
                                                     model=dict(width=16, heads=2, hidden=16, components=2))))
    train = ("sequence", "train", "synthetic", "--config", tmp_path / "r.json", "--out", tmp_path / "run")
    r = call(*train, "--track", "trackio")
    began, *logged, ended = trackio()
    assert began[:3] == ["init", "audioengram", "run"] and began[3]["codec"] == "nano" and began[4] == [] and ended == ["finish"]
    assert [step for _, step, _ in logged] == [0, 2, 4] and all({"energy", "nats"} <= row.keys() for *_, row in logged)
    assert r.exit_code == 0 and "step 4/4" in r.output and "validated on" in r.output, r.output
    assert "from step 4" in call(*train).output
    assert call(*words(home, tmp_path / "z.wav", model=tmp_path / "run" / "model.safetensors")).exit_code == 0
    told = json.loads(call("sequence", "show", tmp_path / "run" / "model.safetensors", "--json").output)
    assert told["sources"][0]["corpus"] == "synthetic" and told["train_speakers"]
    assert math.isfinite(told["scores"]["nats"])
    assert "knows no words" in call("sequence", "show", tmp_path / "run" / "model.safetensors").output
    refused(AudioengramError, "no such recipe", "sequence", "train", "synthetic", "--config", "grand", "--out",
            tmp_path / "n")


def test_two_models_are_joined_from_the_shell_and_speak(home, tmp_path):
    one, out = home / "voice.safetensors", tmp_path / "both.safetensors"
    assert call("sequence", "join", one, one, "--out", out).exit_code == 0
    both, alone = load_sequence(out), load_sequence(one)
    assert both.n_parameters == 2 * alone.n_parameters
    assert call(*words(home, tmp_path / "c.wav", model=out)).exit_code == 0
    assert "2 members with the heads" in call("sequence", "show", out).output
    refused(ParameterError, "is there already", "sequence", "join", one, one, "--out", out)
    refused(ParameterError, "at least two", "sequence", "join", one, "--out", tmp_path / "d.safetensors")
    refused(ParameterError, "the same conditions", "sequence", "join", one, home / "bare.safetensors", "--out",
            tmp_path / "d.safetensors")
    refused(ModelFileError, "not of this nano", "sequence", "join", one, home / "other.safetensors", "--out",
            tmp_path / "d.safetensors")


def test_nothing_heavy_is_imported_for_help():
    heavy = ("zarr", "sklearn", "safetensors", "audioengram.dynamics.sequence")
    code = f"import sys, audioengram.cli_generate; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip() == "[]"


@pytest.mark.skipif(not SHIPPED_SEQUENCE.is_file(), reason="the shipped model is not here")
def test_the_shipped_model_goes_on_without_any_training(home, tmp_path):
    r = call("generate", "--prompt", home / "a.wav", "--out", tmp_path / "on.wav", "--seconds", 3)
    assert r.exit_code == 0, r.output
    wav, rate = load_audio(tmp_path / "on.wav")
    assert len(wav) / rate == pytest.approx(5.,
                                            abs=.09) and np.isfinite(wav).all() and np.abs(wav[rate * 2:]).max() > 1e-3

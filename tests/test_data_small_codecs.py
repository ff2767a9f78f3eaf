"Codecs that are trained when they are asked for."
import pytest

from audioengram.codecs import list_codecs
from audioengram.codecs.nano_recipe import SMALL
from audioengram.core import ModelFileError
from audioengram.data.small_codecs import small_nano


def test_a_small_codec_is_trained_once_and_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUDIOENGRAM_CACHE", str(tmp_path))
    first = small_nano("smoke", corpus="synthetic")
    assert "nano-smoke is trained first: 8 steps" in capsys.readouterr().out and first.about["corpus"] == "synthetic" and first.name == "nano-smoke"
    file = next(tmp_path.rglob("nano.safetensors"))
    monkeypatch.setattr("audioengram.data.small_codecs.get_corpus", None)       # no corpus is opened for what is there
    again = small_nano("smoke", corpus="synthetic")
    assert again.fingerprint == first.fingerprint and capsys.readouterr().out == "" and again.options == {}
    assert {f"nano-{k}" for k in SMALL} <= list_codecs().keys()
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="is damaged"): small_nano("smoke", corpus="synthetic")

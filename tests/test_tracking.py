"What is handed to a tracker: the rows of a curve, of one process, on this machine; nothing unless it was asked for."
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from audioengram.core import MissingDependency, ParameterError
from audioengram.tracking import track, tracking


@pytest.mark.slow
@pytest.mark.parametrize("words, last", [(("codec", "train", "synthetic", "--config", "smoke", "--out", "{out}/run", "--device", "cpu"), None),
                                         (("codes", "train", "{sounds}", "{out}/x.distill", "--steps", "30"), 29)], ids=["codec", "codes"])
def test_other_trainers_hand_over_their_curves(words, last, trackio, tmp_path):
    from audioengram.cli import app
    from audioengram.data.audio import save_audio
    from audioengram.data.voices import synthesise
    (tmp_path / "sounds").mkdir()
    for i in range(5): save_audio(tmp_path / "sounds" / f"{i}.wav", synthesise(3., i, 150), 16_000)
    r = CliRunner().invoke(app, [w.format(out=tmp_path, sounds=tmp_path / "sounds") for w in words] + ["--track", "trackio"])
    assert r.exit_code == 0, (r.output, r.exception)
    began, *logged, ended = trackio()
    assert began[0] == "init" and ended == ["finish"] and logged
    steps = [step for _, step, _ in logged]
    assert steps == sorted(steps) and (last is None or steps[-1] == last) and all(row for *_, row in logged)


def test_nothing_is_tracked_unless_asked(trackio, tmp_path):
    with tracking(None, tmp_path): track(dict(step=1, loss=1.))
    with tracking("trackio", tmp_path): pass
    with pytest.raises(FileNotFoundError): trackio()


def test_a_tracker_is_closed_when_training_fails(trackio, tmp_path):
    with pytest.raises(ZeroDivisionError), tracking("trackio", tmp_path): track(dict(step=1, loss=1.)); 1 / 0  # noqa: B018
    assert trackio()[-1] == ["finish"]
    track(dict(step=2, loss=1.))
    assert trackio()[-1] == ["finish"]


def test_what_is_missing_is_told_before_training(tmp_path, monkeypatch):
    import importlib.util
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in ("tensorboard", "trackio") else found(name, *a))
    with pytest.raises(MissingDependency, match=r'audioengram\[track\]'), tracking("tensorboard", tmp_path): pass
    with pytest.raises(MissingDependency, match="pip install trackio"), tracking("trackio", tmp_path): pass
    with pytest.raises(ParameterError, match="did you mean 'trackio'"), tracking("tracio", tmp_path): pass


def test_event_files_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra: pip install 'audioengram[track]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    with tracking("tensorboard", tmp_path, steps=2):
        for step in (1, 2): track(dict(step=step, loss=1 / step, note="words stay out"))
    read = EventAccumulator(str(tmp_path / "tensorboard")); read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 1.), (2, .5)]


def test_training_waits_for_no_tracker():
    code = "import sys, audioengram.tracking, audioengram.cli; print([m for m in ('tensorboard', 'trackio', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"

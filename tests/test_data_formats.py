"Every container, codec and quirk is read to its end, as an independent decoder reads it; the table in the docs is this test's."
import json
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from formats import KINDS, RATE, SAMPLES, SOUND

from audioengram.core import AudioError
from audioengram.data.audio import AUDIO_SUFFIXES, audio_info, read_audio
from audioengram.data.decode import open_sound

PAGE = Path(__file__).resolve().parent.parent / "nbs/data/04_decode.ipynb"
TITLE = "## What is read, and how"


def by_av(path, g722=False) -> np.ndarray:
    "All samples by FFmpeg, packet by packet to the end, nothing compared and nothing cut: another way than the one under test."
    out = []
    with av.open(str(path), format="g722" if g722 else None, metadata_errors="ignore") as c:
        for packet in c.demux(c.streams.audio[0]):
            try: frames = packet.decode()
            except av.FFmpegError: continue                  # between two joined files
            for f in frames:
                x = f.to_ndarray()
                scale = 1 if x.dtype.kind == "f" else 2.0 ** (8 * x.itemsize - 1)
                out.append((x.astype(float) - (128 if x.dtype.kind == "u" else 0)).ravel() / scale)
    return np.concatenate(out)


def snr(got, want):
    "Signal to noise ratio in dB at the best lag up to 4000 samples."
    n = min(len(want), len(got)) - 8000
    lags = np.fft.irfft(np.fft.rfft(got, 2 * len(got)) * np.conj(np.fft.rfft(want[4000:4000 + n], 2 * len(got))))[:8001]
    at = int(lags.argmax())
    piece = got[at:at + n]
    return 10 * np.log10((piece**2).sum() / (((piece - want[4000:4000 + len(piece)]) ** 2).sum() + 1e-12))


@pytest.mark.parametrize("kind", KINDS, ids=[k.id for k in KINDS])
def test_read_to_the_end(kind, tmp_path):
    path = tmp_path / f"a{kind.suffix}"
    path.write_bytes(kind.make(tmp_path / "made"))
    x, rate = read_audio(path)
    want = np.tile(SOUND, kind.times)
    assert rate == kind.rate and x.shape[1] == 1
    assert abs(len(x) - kind.times * SAMPLES * rate // RATE) <= kind.frame
    info = audio_info(path)
    assert (info.frames, info.rate, info.channels) == (len(x), rate, 1)
    assert snr(x[:, 0], soxr.resample(want, RATE, rate)) > kind.snr if kind.times == 1 else snr(x[-SAMPLES * rate // RATE:, 0], soxr.resample(SOUND, RATE, rate)) > min(kind.snr, 3)
    if kind.ffmpeg:
        other = by_av(path, kind.suffix == ".g722")
        if kind.codec == "Opus": other = soxr.resample(other, 48_000, rate)       # libsndfile decodes to the rate of the original
        assert abs(len(other) - len(x)) <= max(kind.frame, 1024 if kind.times > 1 or kind.codec == "Vorbis" else 0)
        if kind.times == 1: assert snr(x[:, 0], other) > min(kind.snr, 25)
    assert path.suffix in AUDIO_SUFFIXES


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.quirk], ids=[k.id for k in KINDS if not k.quirk])
def test_half_of_it_is_refused_or_is_a_stream(kind, tmp_path):
    "A copy that broke off in the middle: never a part in silence, but where the format has no length and the cut is between two frames."
    path = tmp_path / f"a{kind.suffix}"
    data = kind.make(tmp_path / "made")
    path.write_bytes(data[:len(data) // 2 + 1])
    if kind.container == "none":
        assert len(read_audio(path)[0]) == pytest.approx(SAMPLES * kind.rate / RATE / 2, rel=.1)
        return
    with pytest.raises(AudioError) as e: read_audio(path)
    assert str(path) in str(e.value) and e.value.remedy


def rows_of_matrix(folder) -> str:
    "The table as markdown."
    lines = ["| container | codec | quirk | decoder | note |", "|---|---|---|---|---|"]
    for i, kind in enumerate(KINDS):
        path = folder / f"{i}{kind.suffix}"
        path.write_bytes(kind.make(folder / f"made{i}"))
        sound = open_sound(path)
        lines.append(f"| {kind.container} | {kind.codec} | {kind.quirk or '–'} | {sound.decoder} | {sound.note} |")
    return "\n".join(lines)


def cell_of_matrix(page):
    "The markdown cell under the title."
    return next(c for c in page["cells"] if c["cell_type"] == "markdown" and "".join(c["source"]).startswith(TITLE))


def test_the_matrix_in_the_docs_is_this_one(tmp_path):
    shown = "".join(cell_of_matrix(json.loads(PAGE.read_text(encoding="utf-8")))["source"])
    assert shown.partition("\n| ")[2] == rows_of_matrix(tmp_path).removeprefix("| "), "run `python tests/test_data_formats.py`, nbdev_clean and commit"


if __name__ == "__main__":
    import tempfile
    page = json.loads(PAGE.read_text(encoding="utf-8"))
    cell = cell_of_matrix(page)
    with tempfile.TemporaryDirectory() as made:
        text = "".join(cell["source"]).partition("\n| ")[0] + "\n" + rows_of_matrix(Path(made))
    cell["source"] = text.splitlines(keepends=True)
    PAGE.write_text(json.dumps(page, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")

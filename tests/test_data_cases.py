"Cases: how a corpus under a codec is named and opened."
import pytest

from audioengram.core import ParameterError
from audioengram.data.cases import Case, open_case, parse_cases


def test_naming():
    assert [c.slug for c in parse_cases("debian-speech:nano; librispeech:lyra+stack4+pca128")] == ["debian-speech-nano", "librispeech-lyra+stack4+pca128"]
    assert parse_cases("a:b", codec="mimi") == [Case("debian-speech", "mimi")] and parse_cases("a:b", corpus="folder") == [Case("folder", "nano")]
    assert parse_cases(" folder:nano ;librispeech:lyra+stack4; ") == [Case("folder", "nano"), Case("librispeech", "lyra+stack4")]
    for bad in ("nano", "a:b:c", "", "a b:c"):
        with pytest.raises(ParameterError, match="corpus:codec; corpus:codec"): parse_cases(bad)


def test_opening_takes_a_share_of_every_speaker():
    whole, _, all_frames = open_case(Case("synthetic", "nano"), eval_fraction=.25)
    part, split, store = open_case(Case("synthetic", "nano"), max_seconds=whole.utterances.seconds.sum() / 2, eval_fraction=.25)
    assert set(part.speakers) == set(whole.speakers) and len(split.eval) == 2
    assert .3 < len(store.z) / len(all_frames.z) < .7

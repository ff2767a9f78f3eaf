"Streams: the latents are those of the whole, whatever the cuts; a stream's sound does not depend on the cuts either."
import pytest
import torch

from audioengram.codecs import get_codec
from audioengram.core import AudioengramError
from audioengram.data.sources import synthesise


@pytest.fixture(scope="module")
def nano(): return get_codec("nano")


@pytest.fixture(scope="module")
def speech(): return torch.from_numpy(synthesise(1.4, seed=3))


def pieces(x, seed: int, longest: int):
    g, at = torch.Generator().manual_seed(seed), 0
    while at < len(x):
        n = int(torch.randint(0, longest, (1,), generator=g))
        yield x[at:at + n]
        at += n


def streamed(codec, wav, seed, longest):
    encoder = codec.stream().encoder
    return torch.cat([*(encoder.push(p) for p in pieces(wav, seed, longest)), encoder.finish()])


def test_stream_equals_whole(nano, speech):
    whole = nano.encode(speech[None])[0]
    for seed in range(4): torch.testing.assert_close(streamed(nano, speech, seed, 4000), whole, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_stream_equals_whole_on_a_hundred_cuts(nano):
    wavs = [torch.from_numpy(synthesise(s, seed=i)) for i, s in enumerate((.01, .3, 2., 5.))]
    whole = [nano.encode(w[None])[0] for w in wavs]
    for seed in range(100):
        i = seed % len(wavs)
        torch.testing.assert_close(streamed(nano, wavs[i], seed, 1 + 60 * seed), whole[i], atol=1e-4, rtol=0)


def test_sound_does_not_depend_on_the_cuts_and_nothing_comes_late(nano, speech):
    z, found = nano.encode(speech[None])[0], []
    for seed, longest in ((0, 2), (1, 9)):
        decoder = nano.stream().decoder
        found.append(torch.cat([*(decoder.push(p) for p in pieces(z, seed, longest)), decoder.finish()]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)
    assert len(found[0]) == nano.samples(len(z))
    decoder, given = nano.stream().decoder, 0            # what is promised about latency holds
    for t in range(len(z)):
        given += len(decoder.push(z[t:t + 1]))
        assert (t + 1) * nano.hop - given <= decoder.latency * nano.sample_rate + 1


def test_what_cannot_stream_says_so():
    with pytest.raises(AudioengramError, match="does not stream"): get_codec("mel").stream()


def test_lyra_streams_exactly(lyra_dir, speech):
    pytest.importorskip("ai_edge_litert")
    lyra = get_codec("lyra", weights_dir=lyra_dir)
    whole = lyra.encode(speech[None])
    torch.testing.assert_close(streamed(lyra, speech, 0, 3000), whole[0], atol=0, rtol=0)
    decoder = lyra.stream().decoder
    sound = torch.cat([*(decoder.push(p) for p in pieces(whole[0], 1, 9)), decoder.finish()])
    torch.testing.assert_close(sound, lyra.decode(whole)[0], atol=0, rtol=0)

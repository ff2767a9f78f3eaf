"Streams: the latents are those of the whole, whatever the cuts; a stream's sound does not depend on the cuts either."
import pytest
import torch

from audioengram.codecs import get_codec
from audioengram.core import AudioengramError
from audioengram.data.voices import synthesise


@pytest.fixture(scope="module")
def nano(): return get_codec("nano")


@pytest.fixture(scope="module")
def speech(): return torch.from_numpy(synthesise(1.4, seed=3))


def pieces(x, seed: int, longest: int):
    g, at = torch.Generator().manual_seed(seed), 0
    while at < len(x):
        n = int(torch.randint(0, longest + 1, (1,), generator=g))
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


RANDOM = {"weights": "random"}      # the true configuration; what it makes is no speech


@pytest.fixture(scope="module", params=["mimi", "mimi-vae"])
def kyutai(request):
    pytest.importorskip("moshi")
    return get_codec(request.param, **RANDOM)


def both_ways(codec, wav, seed, longest, frames):
    "Relative errors of streamed latents and of streamed sound against the whole, at cuts of a generator."
    whole, stream = codec.encode(wav[None]), codec.stream()
    z = torch.cat([*map(stream.encode, pieces(wav, seed, longest)), stream.encoder.finish()])
    sound = torch.cat([*map(stream.decode, pieces(whole[0], seed, frames)), stream.decoder.finish()])
    error = lambda a, b: float((a - b).norm() / b.norm().clamp_min(1e-9)) if a.shape == b.shape else float("inf")
    return error(z, whole[0]), error(sound, codec.decode(whole)[0])


def noise(seconds, rate=24_000): return torch.randn(int(seconds * rate), generator=torch.Generator().manual_seed(7)) * .01


def test_mimi_streams_to_rounding(kyutai):
    for seed, longest in ((0, 2500), (1, 500)): assert max(both_ways(kyutai, noise(.35), seed, longest, 4)) < 1e-4


def test_mimi_gives_a_frame_when_its_80_ms_are_heard(kyutai):
    stream, wav = kyutai.stream(), noise(.2)
    assert stream.latency == pytest.approx(.08)
    assert [len(stream.encode(p)) for p in wav.split(960)] == [0, 1, 0, 1, 0]
    z, sound = stream.finish()
    assert len(z) == 1 and len(sound) == kyutai.hop
    with pytest.raises(AudioengramError, match="a piece has shape"): stream.decode(torch.zeros(2, kyutai.dim + 1))


def test_two_streams_and_the_whole_do_not_hear_each_other(kyutai):
    wav, other = noise(.25), noise(.33).flip(0)
    alone = kyutai.stream()
    alone = torch.cat([*map(alone.encode, wav.split(1000)), alone.encoder.finish()])
    one, two, found = kyutai.stream(), kyutai.stream(), []
    whole = kyutai.encode(other[None])
    for p in wav.split(1000):
        found.append(one.encode(p)); two.encode(p.flip(0))
        assert torch.equal(kyutai.encode(other[None]), whole)
    assert torch.equal(torch.cat([*found, one.encoder.finish()]), alone)


@pytest.mark.slow
def test_mimi_streams_on_a_hundred_cuts(kyutai):
    "Fourteen seconds are longer than what its attention sees; the others are cut in many ways."
    assert max(both_ways(kyutai, noise(14), 0, 40_000, 40)) < 1e-4
    wavs = [noise(s) for s in (.01, .3, .8)]
    for seed in range(100): assert max(both_ways(kyutai, wavs[seed % 3], seed, 2 + 60 * seed, 2 + seed % 9)) < 1e-4, seed


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


@pytest.mark.slow
def test_lyra_streams_exactly_on_a_hundred_cuts(lyra_dir):
    pytest.importorskip("ai_edge_litert")
    lyra = get_codec("lyra", weights_dir=lyra_dir)
    wavs = [torch.from_numpy(synthesise(s, seed=i)) for i, s in enumerate((.03, .3, 1.4))]
    for seed in range(100): assert both_ways(lyra, wavs[seed % 3], seed, 2 + 40 * seed, 2 + seed % 9) == (0, 0), seed

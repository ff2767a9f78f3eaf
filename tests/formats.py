"Two and a half seconds of sound in every wrapping that the project reads, made here in code: container, codec, quirk."
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile as sf

RATE, SAMPLES = 16_000, 40_000
TIME = np.arange(SAMPLES) / RATE
SOUND = sum(a * np.sin(2 * np.pi * (f * TIME + 30 * TIME**2)) for a, f in ((.3, 440), (.2, 1234), (.1, 2100))).astype(np.float32)
ID3V2 = b"ID3\x03\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
ID3V1 = b"TAG" + b"x" * 125


def by_sndfile(suffix, subtype, container=None, wav=SOUND):
    "A maker of what libsndfile writes."
    def make(path: Path) -> bytes:
        sf.write(path.with_suffix(suffix), wav, RATE, subtype=subtype, format=container)
        return path.with_suffix(suffix).read_bytes()
    return make


def by_ffmpeg(suffix, codec, container=None, rate=RATE, picture=0, wav=SOUND, bit_rate=None, codec_options=None, **options):
    "A maker of what FFmpeg writes, with so many seconds of picture."
    def make(path: Path) -> bytes:
        path = path.with_suffix(suffix)
        with av.open(str(path), "w", format=container, options=options) as c:
            film = _film(c) if picture else None
            stream = c.add_stream(codec, rate=rate, layout="mono", options=codec_options or {})
            if bit_rate: stream.bit_rate = bit_rate
            frame = av.AudioFrame.from_ndarray((wav * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            for packet in (*stream.encode(frame), *stream.encode(None)): c.mux(packet)
            for _ in range(int(picture * 10)):
                for packet in film.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")): c.mux(packet)
            if film: c.mux(film.encode(None))
        return path.read_bytes()
    return make


def _film(container):
    stream = container.add_stream("mpeg4", rate=10)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    return stream


def edited(make, change):
    "A maker of another's bytes, changed."
    return lambda path: change(make(path))


def put(data: bytes, at: int, new: bytes) -> bytes: return data[:at] + new + data[at + len(new):]


def wav_sizes(whole, samples):
    "Other sizes in a WAV: of the whole and of its samples."
    return lambda b: put(put(b, 4, struct.pack("<I", whole)), b.index(b"data") + 4, struct.pack("<I", samples))


def after(name: bytes, offset: int, new: bytes): return lambda b: put(b, b.index(name) + offset, new)
def flac_total(n): return lambda b: put(b, 21, bytes([b[21] & 0xF0 | n >> 32]) + struct.pack(">I", n & 0xFFFFFFFF))


def pages(data: bytes) -> list:
    "The pages of an Ogg file."
    out, at = [], 0
    while at < len(data):
        n = data[at + 26]
        end = at + 27 + n + sum(data[at + 27:at + 27 + n])
        out.append(data[at:end])
        at = end
    return out


WAV = by_sndfile(".wav", "PCM_16")
AIFF = by_sndfile(".aiff", "PCM_16")
AU = by_sndfile(".au", "ULAW")
CAF = by_sndfile(".caf", "PCM_16")
W64 = by_sndfile(".w64", "PCM_16", "W64")
RF64 = by_sndfile(".wav", "PCM_16", "RF64")
FLAC = by_ffmpeg(".flac", "flac")
MP3 = by_sndfile(".mp3", "MPEG_LAYER_III")
BARE_MP3 = by_ffmpeg(".mp3", "libmp3lame", write_xing="0")
VBR_MP3 = by_ffmpeg(".mp3", "libmp3lame", write_xing="0", codec_options={"global_quality": "300", "flags": "+qscale"}, wav=SOUND * np.where(TIME < 1, .001, 1).astype(np.float32))
VORBIS = by_sndfile(".ogg", "VORBIS", "OGG")
OPUS = by_sndfile(".opus", "OPUS", "OGG")


@dataclass(frozen=True)
class Kind:
    "One cell of the matrix."
    container: str
    codec: str
    quirk: str            # "" for an ordinary file
    suffix: str
    make: Callable        # path without suffix -> bytes
    frame: int = 0        # samples that the length may differ by: a frame of the codec, times what it delays
    times: int = 1        # how often the sound is in it
    rate: int = RATE
    snr: float = 10.      # dB against what was encoded
    ffmpeg: bool = True   # whether FFmpeg reads it right, so that it can be asked as well

    @property
    def id(self): return f"{self.container}-{self.codec}-{self.quirk}".replace(" ", "_")


def _plain(container, suffix, rows): return [Kind(container, codec, "", suffix, make, **more) for codec, make, more in rows]


EXACT = dict(snr=60.)
KINDS = [
    *_plain("WAV", ".wav", [
        ("PCM 16", WAV, EXACT), ("PCM 24", by_sndfile(".wav", "PCM_24"), EXACT), ("PCM 32", by_sndfile(".wav", "PCM_32"), EXACT), ("PCM u8", by_sndfile(".wav", "PCM_U8"), dict(snr=30.)),
        ("float", by_sndfile(".wav", "FLOAT"), EXACT), ("double", by_sndfile(".wav", "DOUBLE"), EXACT), ("µ-law", by_sndfile(".wav", "ULAW"), dict(snr=30.)),
        ("A-law", by_sndfile(".wav", "ALAW"), dict(snr=30.)), ("IMA ADPCM", by_sndfile(".wav", "IMA_ADPCM"), dict(frame=1017)), ("MS ADPCM", by_sndfile(".wav", "MS_ADPCM"), dict(frame=1012)),
        ("GSM 6.10", by_sndfile(".wav", "GSM610"), dict(frame=320, snr=3.)), ("G.721", by_sndfile(".wav", "G721_32"), dict(frame=120, ffmpeg=False)), ("NMS ADPCM", by_sndfile(".wav", "NMS_ADPCM_32"), dict(frame=160, ffmpeg=False)),
        ("MP3", by_ffmpeg(".wav", "libmp3lame", "wav"), dict(frame=3 * 576)), ("PCM 24, extensible", by_sndfile(".wav", "PCM_24", "WAVEX"), EXACT)]),
    *[Kind("WAV", "PCM 16", quirk, ".wav", edited(WAV, change), **EXACT) for quirk, change in (
        ("sizes 0xFFFFFFFF", wav_sizes(2**32 - 1, 2**32 - 1)), ("sizes 0x7FFFFFFF less a header", wav_sizes(2**31 - 1, 2**31 - 37)), ("sizes 0x80000024", wav_sizes(2**31 + 36, 2**31)),
        ("sizes of SoX in a pipe", wav_sizes(0x7FFFF024, 0x7FFFF000)), ("sizes 0", wav_sizes(0, 0)), ("sizes of an empty file", wav_sizes(36, 0)), ("16 bytes too many", wav_sizes(2 * SAMPLES + 36, 2 * SAMPLES + 16)),
        ("wrong byte rate", after(b"fmt ", 16, struct.pack("<I", 1))), ("a chunk behind", lambda b: put(b, 4, struct.pack("<I", len(b) + 4)) + b"LIST\4\0\0\0INFO"),
        ("a tag behind", lambda b: b + ID3V1), ("zeros behind", lambda b: b + bytes(5000)), ("its header counted in", wav_sizes(2 * SAMPLES + 80, 2 * SAMPLES + 44)), ("a chunk behind, cut", lambda b: b + b"LIST\xff\xff\0\0INFO" + bytes(range(1, 256)) * 8))],
    Kind("WAV", "PCM 16", "sizes of a recorder that crashed", ".wav", edited(WAV, wav_sizes(20_036, 20_000)), ffmpeg=False, **EXACT),
    Kind("WAV", "IMA ADPCM", "wrong byte rate", ".wav", edited(by_sndfile(".wav", "IMA_ADPCM"), after(b"fmt ", 16, struct.pack("<I", 8000))), frame=1017),
    Kind("RF64", "PCM 16", "", ".wav", RF64, **EXACT), Kind("RF64", "PCM 16", "sizes 0", ".wav", edited(RF64, after(b"ds64", 8, bytes(16))), ffmpeg=False, **EXACT),
    Kind("W64", "PCM 16", "", ".w64", W64, **EXACT), Kind("W64", "PCM 16", "size 0", ".w64", edited(W64, after(b"data", 16, struct.pack("<Q", 24))), ffmpeg=False, **EXACT),
    Kind("W64", "PCM 16", "size -1", ".w64", edited(W64, after(b"data", 16, b"\xff" * 8)), ffmpeg=False, **EXACT),
    Kind("AIFF", "PCM 16", "", ".aiff", AIFF, **EXACT), Kind("AIFF", "IMA ADPCM", "", ".aiff", by_sndfile(".aiff", "IMA_ADPCM"), frame=64),
    Kind("AIFF", "PCM 16", "no count of frames", ".aiff", edited(AIFF, after(b"COMM", 10, bytes(4))), **EXACT),
    Kind("AIFF", "PCM 16", "sizes 0", ".aiff", edited(AIFF, lambda b: put(after(b"SSND", 4, bytes(4))(b), 4, bytes(4))), ffmpeg=False, **EXACT),
    Kind("AU", "µ-law", "", ".au", AU, snr=30.), Kind("AU", "µ-law", "size -1", ".au", edited(AU, lambda b: put(b, 8, b"\xff" * 4)), snr=30.),
    Kind("AU", "µ-law", "size 0", ".au", edited(AU, lambda b: put(b, 8, bytes(4))), snr=30., ffmpeg=False), Kind("AU", "G.721", "", ".au", by_sndfile(".au", "G721_32"), frame=120, ffmpeg=False),
    Kind("AU", "µ-law", "size of a recorder that crashed", ".au", edited(AU, lambda b: put(b, 8, struct.pack(">I", 10_000))), snr=30., ffmpeg=False),
    Kind("NIST", "PCM 16", "", ".wav", by_sndfile(".nist", "PCM_16", "NIST"), **EXACT), Kind("8SVX", "PCM 16", "", ".wav", by_sndfile(".svx", "PCM_16", "SVX"), ffmpeg=False, **EXACT),
    Kind("CAF", "PCM 16", "", ".caf", CAF, **EXACT), Kind("CAF", "PCM 16", "size -1", ".caf", edited(CAF, after(b"data", 4, b"\xff" * 8)), **EXACT),
    Kind("CAF", "ALAC", "", ".caf", by_sndfile(".caf", "ALAC_16"), ffmpeg=False, **EXACT),
    Kind("FLAC", "FLAC", "", ".flac", FLAC, **EXACT), Kind("FLAC", "FLAC", "total unknown", ".flac", edited(FLAC, flac_total(0)), **EXACT),
    Kind("FLAC", "FLAC", "total too small", ".flac", edited(FLAC, flac_total(20_000)), **EXACT), Kind("FLAC", "FLAC", "a tag before", ".flac", edited(FLAC, lambda b: ID3V2 + b), **EXACT),
    Kind("FLAC", "FLAC", "a tag behind", ".flac", edited(FLAC, lambda b: b + ID3V1), **EXACT), Kind("FLAC", "FLAC", "two joined", ".flac", edited(FLAC, lambda b: b * 2), times=2, **EXACT),
    Kind("MP3", "MP3", "", ".mp3", MP3, frame=576), Kind("MP3", "MP3", "no tag", ".mp3", BARE_MP3, frame=3 * 576), Kind("MP3", "MP3", "variable, no tag", ".mp3", VBR_MP3, frame=3 * 576, snr=-99.),
    Kind("MP3", "MP3", "two joined", ".mp3", edited(MP3, lambda b: b * 2), times=2, frame=5 * 576), Kind("MP3", "MP3", "two joined, a tag between", ".mp3", edited(MP3, lambda b: b + ID3V2 + b), times=2, frame=5 * 576),
    Kind("MP3", "MP3", "no tag, zeros behind", ".mp3", edited(BARE_MP3, lambda b: b + bytes(20_000)), frame=3 * 576),
    Kind("MP3", "MP3", "a tag behind", ".mp3", edited(MP3, lambda b: b + ID3V1), frame=576), Kind("MP3", "MP3", "zeros before", ".mp3", edited(BARE_MP3, lambda b: bytes(3000) + b), frame=3 * 576),
    Kind("Ogg", "Vorbis", "", ".ogg", VORBIS), Kind("Ogg", "Vorbis", "two streams", ".ogg", edited(VORBIS, lambda b: b * 2), times=2, frame=1024), Kind("Ogg", "Vorbis", "a tag behind", ".ogg", edited(VORBIS, lambda b: b + ID3V1)),
    Kind("Ogg", "Opus", "", ".opus", OPUS), Kind("Ogg", "Opus", "three streams", ".opus", edited(OPUS, lambda b: b * 3), times=3),
    Kind("MP4", "AAC", "", ".m4a", by_ffmpeg(".m4a", "aac", "ipod"), frame=1024), Kind("MP4", "AAC", "in fragments", ".mp4", by_ffmpeg(".mp4", "aac", "mp4", movflags="frag_keyframe+empty_moov"), frame=1024),
    Kind("MP4", "AAC", "picture longer than sound", ".mp4", by_ffmpeg(".mp4", "aac", "mp4", picture=5), frame=1024), Kind("MP4", "ALAC", "", ".m4a", by_ffmpeg(".m4a", "alac", "ipod"), **EXACT),
    Kind("MOV", "PCM 16", "", ".mov", by_ffmpeg(".mov", "pcm_s16le", "mov"), **EXACT), Kind("3GP", "AAC", "", ".3gp", by_ffmpeg(".3gp", "aac", "3gp"), frame=1024),
    Kind("Matroska", "Opus", "", ".mka", by_ffmpeg(".mka", "libopus", "matroska", 48_000), rate=48_000, frame=960),
    Kind("Matroska", "MP3", "", ".mka", by_ffmpeg(".mka", "libmp3lame", "matroska"), frame=3 * 576),
    Kind("Matroska", "AAC", "picture longer than sound", ".mkv", by_ffmpeg(".mkv", "aac", "matroska", picture=5), frame=2 * 1024),
    Kind("WebM", "Opus", "", ".webm", by_ffmpeg(".webm", "libopus", "webm", 48_000), rate=48_000, frame=960), Kind("WebM", "Opus", "live, no duration", ".webm", by_ffmpeg(".webm", "libopus", "webm", 48_000, live="1"), rate=48_000, frame=960),
    Kind("AVI", "MP3", "", ".avi", by_ffmpeg(".avi", "libmp3lame"), frame=3 * 576), Kind("none", "G.722", "", ".g722", by_ffmpeg(".g722", "g722", "g722"), frame=320),
    Kind("ADTS", "AAC", "", ".aac", by_ffmpeg(".aac", "aac", "adts"), frame=2 * 1024), Kind("ADTS", "AAC", "two joined", ".aac", edited(by_ffmpeg(".aac", "aac", "adts"), lambda b: b * 2), times=2, frame=4 * 1024),
    Kind("none", "AC-3", "", ".ac3", by_ffmpeg(".ac3", "ac3", "ac3", 48_000), rate=48_000, frame=1536), Kind("TTA", "TTA", "", ".tta", by_ffmpeg(".tta", "tta"), snr=30.),
    Kind("WavPack", "WavPack", "", ".wv", by_ffmpeg(".wv", "wavpack"), snr=30.), Kind("WavPack", "WavPack", "a tag behind", ".wv", edited(by_ffmpeg(".wv", "wavpack"), lambda b: b + ID3V1), snr=30., ffmpeg=False),
]

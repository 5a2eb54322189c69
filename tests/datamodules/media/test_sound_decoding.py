import io
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.media import sound_decoding
from datamodules.media.audio import MediaError, load_waveform, wav_bytes
from datamodules.media.media_files import MomentaryMediaError
from tests.support.dataset_files import tone, write_mp4
from tests.support.media_writer import write_sound

RATE = 48_000


def half_loud(seconds: float = 1.0) -> np.ndarray:
    """Noise, then silence: half a second each for a second."""
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    samples[len(samples) // 2 :] = 0
    return samples


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


class TestContentDecides:
    @pytest.mark.parametrize(
        ("codec", "container", "longer"),
        [
            # codec and container, and how many samples of 48 kHz the file has more than were written
            ("aac", "ipod", 1024),
            ("aac", "adts", 3072),
            ("aac", "3gp", 1024),
            ("aac", "flv", 3072),
            ("aac", "mpegts", 3072),
            ("libmp3lame", "mp3", 0),
            ("libmp3lame", "avi", 2304),
            ("libopus", "webm", 0),
            ("libopus", "ogg", 0),
            ("flac", "flac", 0),
            ("flac", "ogg", 0),
            ("flac", "matroska", 0),
            ("alac", "ipod", 0),
            ("pcm_s16le", "mov", 0),
            ("ac3", "ac3", 3072),
        ],
    )
    @pytest.mark.parametrize("suffix", [".wav", ".mp3", ".mp4", ""])
    def test_whatever_the_name(self, tmp_path: Path, codec: str, container: str, longer: int, suffix: str) -> None:
        path = write_sound(tmp_path / f"clip{suffix}", [tone(1.0, 440, RATE)], codec, container, RATE)
        waveform = load_waveform(path)
        assert 0 <= len(waveform) - 16_000 <= longer / 3 + 1
        assert np.abs(np.fft.rfft(waveform[4_000:12_000])).argmax() == 220  # 440 Hz in steps of 2 Hz
        assert rms(waveform[4_000:12_000]) == pytest.approx(0.4 / 2**0.5, rel=0.06)

    @pytest.mark.parametrize("suffix", [".mp3", ".mp4", ".raw", ".sd2", ""])
    def test_wav_under_another_name(self, tmp_path: Path, suffix: str) -> None:
        soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000, subtype="FLOAT")
        shutil.move(tmp_path / "a.wav", tmp_path / f"b{suffix}")
        assert np.array_equal(load_waveform(tmp_path / f"b{suffix}"), tone(0.5))

    def test_a_colon_in_the_name_is_no_protocol(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_sound(tmp_path / "http:clip.mka", [tone(0.5)], "flac", "matroska")
        monkeypatch.chdir(tmp_path)
        assert len(load_waveform("http:clip.mka")) == 8_000

    def test_names_and_tags_that_are_no_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"caf\xe9.mp3")
        write_sound(tmp_path / "a.mp3", [tone(0.5)], "libmp3lame", metadata={"title": "cafe"}, id3v2_version="0")
        with (tmp_path / "a.mp3").open("ab") as file:  # an ID3v1 tag in latin-1
            file.write((b"TAG" + b"caf\xe9".ljust(30, b"\0")).ljust(128, b"\0"))
        shutil.move(tmp_path / "a.mp3", path)
        assert len(load_waveform(path)) / 16_000 == pytest.approx(0.5, abs=0.01)


class TestMixing:
    @pytest.mark.parametrize("channels", [1, 2, 6])
    @pytest.mark.parametrize(("codec", "container"), [("flac", "matroska"), ("pcm_s16le", "mov"), ("alac", "ipod")])
    def test_a_container_is_mixed_as_an_audio_file_is(
        self, tmp_path: Path, channels: int, codec: str, container: str
    ) -> None:
        levels = np.round(np.random.default_rng(1).uniform(-0.9, 0.9, (channels, 4_000)) * 32_768) / 32_768
        soundfile.write(tmp_path / "a.wav", levels.T, 16_000, format="WAVEX" if channels > 2 else "WAV")
        write_sound(tmp_path / "a", [levels], codec, container)
        mixed = load_waveform(tmp_path / "a")
        assert np.abs(mixed - levels.mean(axis=0)).max() < 1e-6
        assert np.array_equal(mixed, load_waveform(tmp_path / "a.wav"))

    @pytest.mark.parametrize(("codec", "container"), [("aac", "ipod"), ("libopus", "webm"), ("flac", "matroska")])
    def test_eight_channels(self, tmp_path: Path, codec: str, container: str) -> None:
        # PyAV itself reads beyond the end of such frames, which ends the process
        loud, silent = 2 * tone(1.0, 440, RATE), np.zeros(RATE)
        channels = [loud, loud, loud, silent, loud, silent, silent, silent]  # the fourth one is for low sounds only
        write_sound(tmp_path / "a", [np.stack(channels)], codec, container, RATE)
        assert rms(load_waveform(tmp_path / "a")[4_000:12_000]) == pytest.approx(0.4 / 2**0.5, rel=0.15)

    def test_stereo_is_as_loud_as_mono(self, tmp_path: Path) -> None:
        heard = []
        for channels in (1, 2):
            write_mp4(tmp_path / f"{channels}.mp4", 2 * tone(1.0), channels=channels)
            heard.append(load_waveform(tmp_path / f"{channels}.mp4")[2_000:14_000])
        assert rms(heard[1]) == pytest.approx(rms(heard[0]), rel=0.01)
        assert rms(heard[1]) == pytest.approx(0.8 / 2**0.5, rel=0.02)

    def test_opposite_channels_cancel(self, tmp_path: Path) -> None:
        write_sound(tmp_path / "a.mka", [np.stack([tone(0.5), -tone(0.5)])], "flac")
        assert not load_waveform(tmp_path / "a.mka").any()

    def test_what_is_too_loud_for_16_bits_is_made_quieter_and_not_cut(self) -> None:
        loud = (2 * np.sin(np.arange(1_600) / 5)).astype(np.float32)
        sent, _ = soundfile.read(io.BytesIO(wav_bytes(loud, "pcm16")), dtype="float32")
        assert np.abs(sent - loud / np.abs(loud).max()).max() <= 1 / 32_768
        just, _ = soundfile.read(io.BytesIO(wav_bytes(loud / 2, "pcm16")), dtype="float32")
        assert np.abs(just - loud / 2).max() <= 1 / 32_768
        kept, _ = soundfile.read(io.BytesIO(wav_bytes(loud, "float32")), dtype="float32")
        assert np.array_equal(kept, loud)

    @pytest.mark.parametrize(("default", "frequency"), [(0, 300), (1, 900)])
    def test_the_default_track_is_heard(self, tmp_path: Path, default: int, frequency: int) -> None:
        tracks = [tone(1.0, 300), tone(1.0, 900)]
        write_sound(tmp_path / "a.mkv", tracks, "flac", default=default)
        assert np.abs(np.fft.rfft(load_waveform(tmp_path / "a.mkv"))).argmax() == frequency


class TestTheWholeClip:
    def test_a_variable_bit_rate_without_a_table(self, tmp_path: Path) -> None:
        # as `ffmpeg -f mp3 pipe:1` writes it: the bit rate of the first frame says nothing about the length
        path = write_sound(tmp_path / "a.mp3", [half_loud(4)], "libmp3lame", rate=RATE, quality="4", write_xing="0")
        assert soundfile.info(path).frames < 2 * RATE
        assert len(load_waveform(path)) / 16_000 == pytest.approx(4, abs=0.1)
        assert rms(load_waveform(path)[26_000:32_000]) > 0.03

    @pytest.mark.parametrize(
        ("codec", "container"), [("libmp3lame", "mp3"), ("libopus", "ogg"), ("flac", "flac"), ("aac", "adts")]
    )
    def test_streams_one_after_another(self, tmp_path: Path, codec: str, container: str) -> None:
        one = write_sound(tmp_path / "one", [tone(1.0, 440, RATE)], codec, container, RATE).read_bytes()
        (tmp_path / "two").write_bytes(one + one)
        twice, once = load_waveform(tmp_path / "two"), load_waveform(tmp_path / "one")
        assert len(twice) / 16_000 == pytest.approx(2 * len(once) / 16_000, abs=0.06)
        assert rms(twice[20_000:28_000]) == pytest.approx(rms(once[4_000:12_000]), rel=0.02)

    def test_a_rate_that_changes_on_the_way(self, tmp_path: Path) -> None:
        parts = [
            write_sound(tmp_path / str(rate), [tone(1.0, 440, rate)], "aac", "adts", rate).read_bytes()
            for rate in (48_000, 24_000)
        ]
        (tmp_path / "both").write_bytes(b"".join(parts))
        waveform = load_waveform(tmp_path / "both")
        assert len(waveform) / 16_000 == pytest.approx(2.2, abs=0.15)
        for start in (4_000, 22_000):
            assert np.abs(np.fft.rfft(waveform[start : start + 8_000])).argmax() == 220

    @pytest.mark.parametrize("rate", [16_000, 44_100])
    @pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFD3, 200_000, None])
    def test_a_wav_file_that_tells_a_wrong_size(self, tmp_path: Path, size: int | None, rate: int) -> None:
        # recorders that were killed and pipes leave such headers; None: an odd one, a byte less than there is
        samples = (tone(1.0, 440, rate) * 32_768).astype("<i2").tobytes()
        told = len(samples) - 1 if size is None else size
        fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
        head = b"RIFF" + struct.pack("<I", told if told in (0, 0xFFFFFFFF) else len(samples) + 36) + b"WAVE" + fmt
        (tmp_path / "a.wav").write_bytes(head + b"data" + struct.pack("<I", told) + samples)
        assert 15_999 <= len(load_waveform(tmp_path / "a.wav")) <= 16_000
        (tmp_path / "b.wav").write_bytes(b"ID3\3\0\0\0\0\2\1" + bytes(257) + head + b"data" + bytes(4) + samples)
        assert len(load_waveform(tmp_path / "b.wav")) == 16_000

    @pytest.mark.parametrize("kind", ["RF64", "W64", "AIFF", "AU", "CAF", "NIST"])
    def test_other_ways_to_keep_samples(self, tmp_path: Path, kind: str) -> None:
        samples = np.round(tone(0.5) * 32_768) / np.float32(32_768)
        soundfile.write(tmp_path / "a.wav", samples, 16_000, format=kind, subtype="PCM_16")
        assert np.array_equal(load_waveform(tmp_path / "a.wav"), samples)

    @pytest.mark.parametrize(
        ("subtype", "codec", "step"),
        [
            ("PCM_U8", "pcm_u8", 2**-7),
            ("PCM_24", "pcm_s24le", 2**-23),
            ("PCM_32", "pcm_s32le", 2**-24),
            ("FLOAT", "pcm_f32le", 0),
            ("DOUBLE", "pcm_f64le", 0),
            ("ULAW", "pcm_mulaw", 2**-5),
        ],
    )
    def test_both_decoders_give_the_same_samples(self, tmp_path: Path, subtype: str, codec: str, step: float) -> None:
        soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000, subtype=subtype)
        by_soundfile = load_waveform(tmp_path / "a.wav")
        assert np.abs(by_soundfile - tone(0.5)).max() <= step
        (by_av, rate), *more = sound_decoding._by_av(tmp_path / "a.wav", None)
        assert (rate, more) == (16_000, [])
        assert np.array_equal(by_av, by_soundfile)


def _half(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


class TestBrokenFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"<!DOCTYPE html>\n<html><title>404</title></html>" * 20, "this is an HTML page"),
            (b"\xef\xbb\xbf \n<html><body>Sign in</body></html>", "this is an HTML page"),
            (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "this is an XML document"),
            (b'{"error": "not found"}', "this is JSON text"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "Git LFS pointer.*git lfs pull"),
            (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", "this is a playlist"),
            (b"ffconcat version 1.0\nfile secret.wav\n", "this is a playlist"),
            (b"PK\3\4" + bytes(500), "this is a zip archive: unpack it"),
            (b"404: Not Found", "it is text that begins with '404: Not Found'"),
            (bytes(300_000), "it begins with zero bytes"),
            (np.random.default_rng(0).bytes(300_000), "the audio cannot be decoded"),
            (b"RIFF", "the audio cannot be decoded"),
        ],
    )
    @pytest.mark.parametrize("name", ["a.wav", "a.mp4"])
    def test_what_is_no_clip_is_called_by_its_name(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError, match=message) as error:
            load_waveform(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(("codec", "container"), [("aac", "ipod"), ("flac", "flac"), ("alac", "mov")])
    def test_a_file_that_breaks_off(self, tmp_path: Path, codec: str, container: str) -> None:
        options = {} if container == "flac" else {"movflags": "+faststart"}
        path = write_sound(tmp_path / "a", [half_loud(2)[::-1]], codec, container, RATE, **options)
        _half(path, path.read_bytes())
        with pytest.raises(MediaError, match=r"the file is damaged or breaks off: [01]\.\d of 2\.0 s of sound"):
            load_waveform(path)

    def test_a_video_that_breaks_off(self, tmp_path: Path) -> None:
        # what is missing may begin with a picture: no packet of sound is damaged, there are only fewer than told
        path = write_mp4(tmp_path / "a.mp4", half_loud(4), RATE, movflags="+faststart")
        content = path.read_bytes()
        for part in (0.5, 0.6, 0.7):
            path.write_bytes(content[: int(len(content) * part)])
            with pytest.raises(MediaError, match=r"a\.mp4: the file is damaged or breaks off: [0123]\.\d of 4\.0 s"):
                load_waveform(path)

    def test_a_few_damaged_packets_do_no_harm(self, tmp_path: Path) -> None:
        path = write_sound(tmp_path / "a.m4a", [half_loud(3)], "aac", rate=RATE, movflags="+faststart")
        content = bytearray(path.read_bytes())
        content[4_000:4_060] = bytes(range(60))
        path.write_bytes(content)
        assert len(load_waveform(path)) / 16_000 == pytest.approx(3, abs=0.1)

    @pytest.mark.parametrize(
        "error", [MemoryError(), RuntimeError("no"), OSError(5, "Input/output error"), KeyError(1)]
    )
    def test_whatever_a_decoder_raises(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
        monkeypatch.setattr(soundfile, "SoundFile", fail)
        assert np.abs(load_waveform(tmp_path / "a.wav") - tone(0.5)).max() < 1e-4  # the other decoder reads it
        monkeypatch.setattr(sound_decoding.av, "open", fail)
        with pytest.raises(MediaError, match=r"a\.wav: the audio cannot be decoded") as found:
            load_waveform(tmp_path / "a.wav")
        of_the_machine = isinstance(error, MemoryError | OSError)
        assert isinstance(found.value, MomentaryMediaError) == of_the_machine

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 44_101])
    def test_an_empty_file_at_any_rate(self, tmp_path: Path, rate: int) -> None:
        soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), rate)
        with pytest.raises(MediaError, match=r"too short to be heard \(0.0 ms\)"):
            load_waveform(tmp_path / "a.wav")

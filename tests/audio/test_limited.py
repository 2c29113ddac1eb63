"""Decoding in a limited process gives the samples of decoding here, and ends at its limits."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from acoustic_env.audio.decode import decode
from acoustic_env.audio.limited import LimitedDecoder
from acoustic_env.errors import ClipError
from tests.sounds import bad_files, good_files
from tests.web.fake import wav


@pytest.fixture(scope="module")
def limited() -> Iterator[LimitedDecoder]:
    with LimitedDecoder(megabytes=64, seconds=30.0) as made:
        yield made


def test_samples_and_errors_are_those_of_decoding_here(limited: LimitedDecoder, tmp_path: Path) -> None:
    for name, data in good_files().items():
        (tmp_path / "file").write_bytes(data)
        expected, rate = decode(io.BytesIO(data), 0.1, None, name)
        with (tmp_path / "file").open("rb") as file:
            for source in (file, io.BytesIO(data)):
                found, found_rate = limited.decode(source, 0.1, None, name)
                assert found_rate == rate
                np.testing.assert_array_equal(found, expected)
    for name, (data, code) in bad_files().items():
        if code != "too_short":  # which decoding does not mind
            with pytest.raises(ClipError) as here:
                decode(io.BytesIO(data), None, None, name)
            with pytest.raises(ClipError) as there:
                limited.decode(io.BytesIO(data), None, None, name)
            assert (there.value.code, there.value.message) == (code, here.value.message)


def test_a_file_beyond_the_memory_or_time_costs_itself_alone(limited: LimitedDecoder) -> None:
    bomb, sound = wav(np.zeros((6_600_000, 8), np.int16), 655_350, "FLAC"), wav(np.zeros(1600, np.int16))
    for _ in range(2):
        with pytest.raises(ClipError) as caught:
            limited.decode(io.BytesIO(bomb), None, None, "bomb.flac")
        assert caught.value.code == "out_of_memory"
        with pytest.raises(ClipError, match=r"bomb\.flac: not decoded within 30 s") as caught:
            limited.decode(io.BytesIO(bomb), None, None, "bomb.flac", seconds=0.01)
        assert caught.value.code == "timed_out"
        assert len(limited.decode(io.BytesIO(sound), None, None, "sound.wav")[0]) == 1600


def test_a_crash_is_an_error_of_the_file_and_the_next_one_is_decoded(limited: LimitedDecoder) -> None:
    sound = io.BytesIO(wav(np.zeros(1600, np.int16)))
    limited.decode(sound, None, None, "sound.wav")
    os.kill(limited.start().process.pid, signal.SIGSEGV)
    with pytest.raises(ClipError, match="the decoder crashed on it"):
        limited.decode(sound, None, None, "sound.wav")
    assert len(limited.decode(sound, None, None, "sound.wav")[0]) == 1600

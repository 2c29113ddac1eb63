"""ffmpeg guesses the length of a raw AAC stream from a bit rate: whole files were refused as truncated."""

from __future__ import annotations

import io

import numpy as np

from acoustic_env.audio.decode import decode
from tests.sounds import encode_by_ffmpeg


def test_a_raw_aac_stream_whose_bit_rate_falls_is_not_called_truncated() -> None:
    rng = np.random.default_rng(23)
    loud, quiet = rng.normal(0, 0.2, 2 * 16_000), np.zeros(8 * 16_000)
    for sound in (np.concatenate([quiet, loud]), np.concatenate([loud, quiet])):
        encoded = encode_by_ffmpeg(sound.astype(np.float32), 16_000, "adts", "aac")
        waveform, rate = decode(io.BytesIO(encoded), None, None, "stream.aac")
        assert abs(len(waveform) / rate - 10.0) < 0.3

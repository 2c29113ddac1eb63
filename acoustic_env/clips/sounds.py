"""Synthetic outdoor sound sources: engines, horns and voices, wind, rain and birds.

Every source is a function of (samples, rate in Hz, character, timing) -> float64[samples]: `character` draws what stays
the same through a recording (an engine's speed, a bird's song), `timing` what differs from clip to clip. Levels are
arbitrary; the mixer sets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

Wave = npt.NDArray[np.float64]  # [samples]
Source = Callable[[int, int, np.random.Generator, np.random.Generator], Wave]


def colored_noise(samples: int, rate: int, rng: np.random.Generator, gain: Callable[[Wave], Wave]) -> Wave:
    """Generate Gaussian noise whose amplitude at a frequency (Hz) is `gain` of it."""
    padded = fft.next_fast_len(samples, real=True)
    frequencies = fft.rfftfreq(padded, 1 / rate)
    spectrum = fft.rfft(rng.standard_normal(padded)) * gain(np.maximum(frequencies, 1.0))
    return np.asarray(fft.irfft(spectrum, padded)[:samples])


def unit(wave: Wave) -> Wave:
    """Scale the wave to deviation 1; a silent one stays silent."""
    return np.asarray(wave / (wave.std() + 1e-9))


def slow_curve(samples: int, rate: int, rng: np.random.Generator, fastest_hz: float) -> Wave:
    """Generate a random curve of mean 0 and deviation 1 that moves no faster than `fastest_hz`."""
    knots = rng.standard_normal(max(4, int(samples / rate * fastest_hz * 2) + 3))
    curve = np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    return unit(curve - curve.mean())


def tone(frequency: Wave, rate: int, harmonics: Wave, phase: float = 0.0) -> Wave:
    """Generate a harmonic tone along a frequency curve (Hz) [samples]; harmonics that would alias are left out."""
    usable = harmonics[: max(1, int(0.45 * rate / max(float(frequency.max()), 1.0)))]
    cycle = np.linspace(0, 1, 2048, endpoint=False)
    table = np.sin(2 * np.pi * np.outer(np.arange(1, len(usable) + 1), cycle)).T @ usable
    turns = (phase + np.cumsum(frequency) / rate) % 1.0
    return np.asarray(table[(turns * 2048).astype(np.intp)])


def impulses(samples: int, rate: int, rng: np.random.Generator, per_second: float) -> Wave:
    """Generate Poisson impulses of exponential height."""
    train = np.zeros(samples)
    count = int(rng.poisson(per_second * samples / rate))
    np.add.at(train, rng.integers(0, samples, count), rng.exponential(1.0, count))
    return train


def gate(samples: int, rate: int, start_s: float, length_s: float) -> Wave:
    """Return 1 between start and start + length, with raised edges of 20 ms, 0 elsewhere."""
    times = np.arange(samples) / rate - start_s
    return np.asarray(np.clip(np.minimum(times, length_s - times) / 0.02, 0.0, 1.0))


def _resonance(frequencies: Wave, center: float, width: float) -> Wave:
    return np.asarray(1.0 / (1.0 + ((frequencies - center) / width) ** 2))


def _ringing(samples: int, rate: int, train: Wave, frequency: float, decay_s: float) -> Wave:
    times = np.arange(int(6 * decay_s * rate) + 2) / rate
    return np.asarray(
        signal.fftconvolve(train, np.sin(2 * np.pi * frequency * times) * np.exp(-times / decay_s))[:samples]
    )


def engine(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize an engine: a low harmonic hum that wanders, rough at half its firing rate, and exhaust noise."""
    firing = character.uniform(28, 85)
    order = np.arange(1.0, 41.0)
    harmonics = order ** -character.uniform(0.7, 1.4) * character.lognormal(0, 0.7, 40)
    wander = slow_curve(samples, rate, timing, 0.4)
    frequency = firing * (1 + character.uniform(0.01, 0.08) * wander)
    hum = tone(frequency, rate, harmonics, timing.uniform())
    hum *= 1 + 0.4 * tone(frequency / 2, rate, np.ones(1))
    exhaust = colored_noise(samples, rate, timing, lambda f: f**-0.5 * _resonance(f, 150.0, 400.0))
    return unit(hum) + 0.6 * (1 + 0.3 * wander) * unit(exhaust)


def traffic(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize a road: tire noise that swells and fades as vehicles pass over a steady roar."""
    slope = character.uniform(0.5, 1.0)
    roar = colored_noise(samples, rate, timing, lambda f: (f + 60.0) ** -slope)
    tyres = colored_noise(samples, rate, timing, lambda f: _resonance(f, 900.0, 700.0))
    times = np.arange(samples) / rate
    passing = np.full(samples, 0.15)
    for _ in range(int(timing.integers(1, 5))):
        width = timing.uniform(0.6, 1.8)
        passing += timing.uniform(0.4, 1.0) * np.exp(-(((times - timing.uniform(0, times[-1])) / width) ** 2))
    return unit(roar) + 1.5 * passing * unit(tyres)


def horn(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize car horns: two bright tones a third apart, in a few short blasts."""
    base = character.uniform(320, 480)
    harmonics = np.arange(1.0, 16.0) ** -0.8
    both = tone(np.full(samples, base), rate, harmonics) + tone(np.full(samples, 1.26 * base), rate, harmonics)
    envelope = np.zeros(samples)
    for _ in range(int(timing.integers(1, 4))):
        start = timing.uniform(0, 0.9 * samples / rate)
        envelope = np.maximum(envelope, gate(samples, rate, start, timing.uniform(0.15, 1.1)))
    return np.asarray(both * envelope)


def siren(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize an emergency vehicle: a tone that wails or yelps between 500 and 1,500 Hz, near or far."""
    times = np.arange(samples) / rate
    sweep = character.choice([0.2, 0.35, 2.8]) * character.uniform(0.9, 1.1)
    position = 0.5 + 0.5 * signal.sawtooth(2 * np.pi * (sweep * times + timing.uniform()), 0.6)
    frequency = character.uniform(450, 650) * (character.uniform(1.9, 2.6) ** position)
    near = np.exp(-(((times - timing.uniform(0, times[-1])) / timing.uniform(2, 8)) ** 2)) + 0.1
    return np.asarray(near * tone(frequency, rate, np.array([1.0, 0.5, 0.35, 0.15, 0.1])))


def jackhammer(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize a jackhammer: bursts of blows, each ringing in stone and steel."""
    blows = np.zeros(samples)
    at = np.arange(0, samples, rate / character.uniform(16, 27)) + timing.normal(0, 0.001 * rate)
    places = at.astype(np.intp)
    blows[places[(places >= 0) & (places < samples)]] = 1.0
    blows *= gate(samples, rate, timing.uniform(0, 0.5) * samples / rate, timing.uniform(1.5, 6.0))
    kernel = np.exp(-np.arange(int(0.03 * rate)) / (0.006 * rate)) * character.standard_normal(int(0.03 * rate))
    struck = signal.fftconvolve(blows, kernel)[:samples]
    return np.asarray(struck + 0.5 * _ringing(samples, rate, blows, character.uniform(1200, 2600), 0.01))


def hum(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize mains hum and a ventilator: exact harmonics of 50 Hz over a steady low rush."""
    harmonics = character.lognormal(0, 0.8, 12) * np.arange(1.0, 13.0) ** -1.0
    mains = tone(np.full(samples, 50.0), rate, harmonics, timing.uniform())
    rush = colored_noise(samples, rate, timing, lambda f: _resonance(f, character.uniform(120, 420), 250.0))
    return unit(mains) + unit(rush)


def babble(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize several voices at once: buzzes shaped by changing vowels, at three to six syllables a second."""
    total = np.zeros(samples)
    padded = fft.next_fast_len(samples, real=True)
    frequencies = fft.rfftfreq(padded, 1 / rate)
    for _ in range(int(character.integers(2, 5))):
        pitch = character.uniform(95, 240) * np.exp(0.12 * slow_curve(samples, rate, timing, 2.5))
        spectrum = fft.rfft(tone(pitch, rate, np.arange(1.0, 50.0) ** -1.0), padded)
        syllables = np.maximum(slow_curve(samples, rate, timing, character.uniform(3, 5)), 0.0)
        choice = slow_curve(samples, rate, timing, 4.0)
        for first, second, share in (
            (700, 1200, choice > 0.3),
            (320, 2200, np.abs(choice) <= 0.3),
            (420, 900, choice < -0.3),
        ):
            shape = _resonance(frequencies, first, 90) + 0.5 * _resonance(frequencies, second, 130)
            vowel = fft.irfft(spectrum * shape, padded)[:samples]
            total += vowel * signal.fftconvolve(share * syllables, np.hanning(rate // 40), mode="same")
    return total


def footsteps(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize steps of a person walking on a pavement: dull knocks with a brush of the sole."""
    steps = np.zeros(samples)
    places = (np.cumsum(timing.normal(1 / character.uniform(1.6, 2.2), 0.03, 40)) * rate).astype(np.intp)
    steps[places[(places >= 0) & (places < samples)]] = 1.0
    knock = np.exp(-np.arange(rate // 8) / (0.015 * rate)) * character.standard_normal(rate // 8)
    return np.asarray(signal.fftconvolve(steps, signal.lfilter(*signal.butter(2, 1400, fs=rate), knock))[:samples])


def wind(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize wind in trees and on the microphone: deep noise in gusts, leaves above it."""
    corner = character.uniform(80, 400)
    deep = colored_noise(samples, rate, timing, lambda f: 1.0 / (1.0 + (f / corner) ** 1.6))
    leaves = colored_noise(samples, rate, timing, lambda f: _resonance(f, character.uniform(1500, 3500), 1500.0))
    gusts = np.exp(0.7 * slow_curve(samples, rate, timing, character.uniform(0.15, 0.7)))
    return gusts * unit(deep) + character.uniform(0.05, 0.5) * gusts**1.5 * unit(leaves)


def rain(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize rain: an even rush from 1 kHz upwards and single drops."""
    rush = colored_noise(samples, rate, timing, lambda f: (f / (f + 1500.0)) ** 1.2)
    total = unit(rush)
    for pitch in character.uniform(1200, 6000, 4):
        drops = impulses(samples, rate, timing, character.uniform(4, 20))
        total += character.uniform(0.2, 0.9) * unit(_ringing(samples, rate, drops, pitch, 0.004))
    return total


def surf(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize waves on a shore: noise that swells every several seconds and grows brighter as it breaks."""
    times = np.arange(samples) / rate
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (times / character.uniform(5, 11) + timing.uniform()))
    dark = colored_noise(samples, rate, timing, lambda f: (f + 100.0) ** -0.8)
    bright = colored_noise(samples, rate, timing, lambda f: _resonance(f, 2500.0, 2500.0))
    return (0.3 + swell) * unit(dark) + swell**3 * unit(bright)


def stream(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize running water: a bed of noise with countless small bubbles that ring."""
    center = character.uniform(700, 2500)
    bed = colored_noise(samples, rate, timing, lambda f: _resonance(f, center, 1200.0))
    total = unit(bed)
    for pitch in character.uniform(350, 2800, 7):
        train = impulses(samples, rate, timing, 25.0)
        total += 0.35 * unit(_ringing(samples, rate, train, pitch, 0.008))
    return total


def birds(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize one or two birds: phrases of whistled syllables sweeping between 2 and 7 kHz."""
    total = np.zeros(samples)
    for _ in range(int(character.integers(1, 3))):
        song = [
            (character.uniform(2000, 5200), character.uniform(-1600, 1800), character.uniform(0.04, 0.22))
            for _ in range(int(character.integers(1, 6)))
        ]
        tremolo, depth, pause = character.uniform(0, 40), character.uniform(0, 350), character.uniform(0.5, 3.0)
        at = timing.uniform(0, pause)
        while at < samples / rate:
            for start, sweep, length in song:
                first, count = int(at * rate), int(length * rate)
                part = np.arange(max(0, min(count, samples - first))) / rate
                frequency = start + sweep * part / length + depth * np.sin(2 * np.pi * tremolo * part)
                syllable = tone(np.clip(frequency, 800, 7400), rate, np.array([1.0, 0.12])) if len(part) else part
                total[first : first + len(part)] += syllable * np.sin(np.pi * part / length) ** 0.7
                at += length + 0.04
            at += timing.exponential(pause)
    return total


def insects(samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator) -> Wave:
    """Synthesize crickets and cicadas: narrow tones between 3 and 7 kHz, pulsed and in trills."""
    times = np.arange(samples) / rate
    carrier = character.uniform(3200, 7000) + 60 * slow_curve(samples, rate, timing, 3.0)
    pulses = np.maximum(np.sin(2 * np.pi * (character.uniform(18, 55) * times + timing.uniform())), 0.0) ** 0.5
    trill = np.clip(3 * np.sin(2 * np.pi * (character.uniform(0.3, 2.6) * times + timing.uniform())) + 1.5, 0.0, 1.0)
    return np.asarray(tone(carrier, rate, np.ones(1)) * pulses * trill)


URBAN: Final[dict[str, Source]] = {
    source.__name__: source for source in (engine, traffic, horn, siren, jackhammer, hum, babble, footsteps)
}
NATURAL: Final[dict[str, Source]] = {source.__name__: source for source in (wind, rain, surf, stream, birds, insects)}

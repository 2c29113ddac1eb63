"""Bytes to waveforms: fetch, decode, level, separate."""

"""Waveforms to numbers: one file per feature block, one contract for all."""

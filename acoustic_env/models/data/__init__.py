"""Features of clips as arrays or sequences of frames, with targets, groups and windows."""

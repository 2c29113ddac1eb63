"""Features of clips as arrays or streams of frames, with targets, groups and windows."""

"""Clips that are the same recording: signatures, pairs of them, and the groups that they join."""

"""Feature tables and labels people can trust, from large lists of audio clips, on Ray."""

__version__ = "0.1.0"

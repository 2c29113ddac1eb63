"""Files, object stores and archives: one way to open, list, write atomically and retry, at any fsspec URL."""

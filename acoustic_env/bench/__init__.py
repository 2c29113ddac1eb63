"""What `acoustic-env bench` measures: each stage in both engines, in pairs, in one run."""

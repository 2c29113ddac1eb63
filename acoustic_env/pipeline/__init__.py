"""The extraction job on Ray Data."""

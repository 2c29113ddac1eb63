"""From feature tables to classifiers one can believe."""

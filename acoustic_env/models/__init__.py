"""From feature tables to classifiers one can score_labels."""

"""Feature tables on any filesystem: the table is the checkpoint."""

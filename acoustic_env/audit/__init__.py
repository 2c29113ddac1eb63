"""Finding, measuring and repairing wrong labels."""

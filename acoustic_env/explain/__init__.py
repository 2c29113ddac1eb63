"""What a classifier relies on, and what differs between classes."""

"""One loop that trains a network, for one process and for Ray Train's workers."""

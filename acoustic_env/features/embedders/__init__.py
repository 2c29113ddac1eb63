"""Pretrained networks as feature blocks, and their weights."""

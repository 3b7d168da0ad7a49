"""Synchronous data parallelism: the same state on every replica."""

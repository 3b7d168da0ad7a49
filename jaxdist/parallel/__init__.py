"""Mechanism of parallel training: arrays, meshes and collectives, without knowledge of training."""

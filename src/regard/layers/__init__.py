"""Layers that two papers share. Each file: the mathematics as functions, then the holder of the weights."""

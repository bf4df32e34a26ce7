"""Layers in C, tile by tile: the nest of loops over tiles, and the tile of every tensor in memory of its own, which is
loaded or stored where the nest comes to it."""

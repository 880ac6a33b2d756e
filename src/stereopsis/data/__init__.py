"""Data for training: procedural scenes, their textures, and what happens to their images."""

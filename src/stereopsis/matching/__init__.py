"""Stereo matching: a rectified pair in, a :class:`stereopsis.Disparity` out."""

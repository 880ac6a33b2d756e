"""Codecs for stereo pairs: real files that decode to the same symbols on every machine."""

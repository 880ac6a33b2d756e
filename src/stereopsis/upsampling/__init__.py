"""Upsampling of depth under the guidance of a colour image: ``model(image, depth) -> Depth``.

``depth`` has the image's size already (:func:`~stereopsis.geometry.resample.enlarge`);
:func:`~stereopsis.upsampling.upsample.upsample` takes a small map and does both.
"""

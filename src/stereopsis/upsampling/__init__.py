"""Upsampling of depth under the guidance of a colour image: ``model(image, depth) -> Depth``.

``depth`` has the image's size already (:func:`~stereopsis.upsampling.resample.enlarge`);
:func:`~stereopsis.upsampling.resample.upsample` takes a small map and does both.
"""

"""The pipeline over HTTP: matching, depth, upsampling and the codecs, with limits that hold before work begins.

:func:`create_app` gives an ASGI application; ``stereopsis serve`` runs it with uvicorn.
"""

from stereopsis.apps.server.limits import Limits

__all__ = ["Limits"]

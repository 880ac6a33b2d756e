"""A page to look at results: pictures, values under the pointer, points to turn, and a slider over a sequence.

:func:`open_source` finds frames in what the commands write, :class:`ViewServer` shows them on this machine, and
:func:`write_page` puts them into one file. The page holds its own script and asks no other machine for anything.
"""

from stereopsis.apps.viewer.pages import ViewServer, write_page
from stereopsis.apps.viewer.sources import Extras, Source, open_source

__all__ = ["Extras", "Source", "ViewServer", "open_source", "write_page"]

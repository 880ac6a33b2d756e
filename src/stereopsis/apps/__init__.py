"""Programs on top of the library: the demo, the viewer and the HTTP server."""

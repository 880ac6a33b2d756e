"""The demo: one pair through every system, and the page that shows the results."""

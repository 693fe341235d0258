"""The same facts for a terminal and as a self-contained page."""

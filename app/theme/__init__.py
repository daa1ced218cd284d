"""Colours, icons and styles: the one place that decides what the window looks like."""

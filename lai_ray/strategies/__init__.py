"""Strategies: what an instructor is shown and asked, one file each, found by name."""

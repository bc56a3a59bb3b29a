"""How an instructor is shown a mistake: one file each, found by name."""

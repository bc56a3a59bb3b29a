"""Engines, one file each, found by import: they answer requests with a local model or through an API."""

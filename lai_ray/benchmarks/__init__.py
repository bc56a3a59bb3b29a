"""Benchmarks, one file each, found by import: `benchmarks/gsm8k.py` is "gsm8k" because of its file name."""

"""Sweeps: many whole runs from one file, and what they come to.

file.py reads the file, runs.py starts what is missing, table.py says what came out.
"""

"""Sweeps: many whole runs from one file, and a table of their results.

file.py reads the file, runs.py makes the missing runs, table.py and costs.py have the tables, submitted.py a Ray job.
"""

"""Prompts for the instructor: the built-in ones and a job's own."""

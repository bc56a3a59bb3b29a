"""Verdicts on answers: numbers, choices, programs. Pure functions, except the sandbox."""

"""Isolated execution of generated code. Imports only the standard library."""

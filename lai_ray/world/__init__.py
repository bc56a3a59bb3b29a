"""The built-in world: a student small enough for one CPU core and a tutor made of rules. No network, no download."""

from pathlib import Path

STUDENT: str = str(Path(__file__).resolve().parent / "student")
"""Folder of the built-in student: a Llama of about 0.9 M parameters, weights and tokenizer in Hugging Face format."""

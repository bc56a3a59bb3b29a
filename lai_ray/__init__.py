"""lai-ray: language models that improve by studying their own mistakes, on Ray (arXiv 2407.00497)."""

__version__ = "0.1.0"

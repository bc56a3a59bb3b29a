"""Generated code, run where it cannot hurt. Imports the standard library alone."""

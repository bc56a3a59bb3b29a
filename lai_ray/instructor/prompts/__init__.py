"""What the instructor is asked, in built-in wording or a job's own."""

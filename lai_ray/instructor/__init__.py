"""What is asked of the instructor and at what pace: pure functions, no network, no clock of their own."""

"""Whether an answer is right: numbers, choices, programs. Pure, apart from the sandbox."""

"""The target's answers, by Ray Data over engine actors."""

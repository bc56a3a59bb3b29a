"""Generation on engine actors, with Ray Data."""

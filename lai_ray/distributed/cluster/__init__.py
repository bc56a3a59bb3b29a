"""What the cluster holds, and what happens to it while a run is at work."""

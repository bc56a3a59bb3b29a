"""The cluster's resources, and monitoring of its nodes during a run."""

"""Training objectives: every file is one, found by its name (`lai_ray.contracts.Objective`)."""

"""`python -m lai_ray`, the same as `lai`."""

from lai_ray.cli.main import main

main()

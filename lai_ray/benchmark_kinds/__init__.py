"""What benchmarks of one kind share, and users' own data: each kind renders, reads replies and grades."""

"""`lai check`: what a job would do, ask and cost, before anything is paid for."""

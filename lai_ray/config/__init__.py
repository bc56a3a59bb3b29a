"""The job file: tables of settings, the job they make, and how TOML becomes one."""

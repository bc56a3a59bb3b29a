"""A job or a sweep as one `ray job submit`."""

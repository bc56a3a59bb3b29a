"""Calls to an instructor: an API through an actor pool with rate limits and retries, or an open model's engines."""

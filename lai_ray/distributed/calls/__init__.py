"""Calls to an instructor: an actor pool, its rate limits and retries; or the engines of an open model."""

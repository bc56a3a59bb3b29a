"""Requests and tokens per minute, on a clock that the caller holds. Pure."""

"""Runs on a disk or in a bucket: objects, stores, model folders, identity."""

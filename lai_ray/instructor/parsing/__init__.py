"""Parsers of an instructor's replies.  text -> pieces"""

"""Imported by every Ray worker before its first task: the user's folder becomes the last on its search path."""

from lai_ray.common.search_path import user_folder_last

user_folder_last()

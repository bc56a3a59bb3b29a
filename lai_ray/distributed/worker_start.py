"""Imported by every Ray worker before its first task: it finds the user's plug-ins in the user's folder."""

from lai_ray.common.search_path import user_folder_last

user_folder_last()

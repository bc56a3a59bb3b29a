"""`python -m lai_ray`, the same as `lai`."""

from lai_ray.common.search_path import user_folder_last

user_folder_last()  # First: Python has put the current folder before its own modules.

from lai_ray.cli.main import main  # noqa: E402

main()

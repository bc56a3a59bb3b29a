"""What every room may use: plug-ins by import, chat templates, progress, intervals."""

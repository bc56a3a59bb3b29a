"""Budget, ledger and token counts of instructor calls. Pure."""

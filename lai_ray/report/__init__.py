"""Run folders -> tables, the story of one mistake. Reads only; starts nothing."""

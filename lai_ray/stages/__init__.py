"""One step of the loop each: select, evaluate, diagnose, instruct, curate, train, and a search over the last three."""

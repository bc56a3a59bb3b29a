"""One step of the loop each: select, evaluate, diagnose, instruct, curate, rehearse, train, and a search."""

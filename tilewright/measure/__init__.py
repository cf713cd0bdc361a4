"""How fast a candidate is, really: builds in parallel, times alone, and survives whatever a candidate does."""

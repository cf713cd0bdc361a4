"""How fast a candidate is: builds candidates in parallel, times each alone, and survives whatever they do."""

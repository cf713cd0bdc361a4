"""What people look at: a page that explains a run, a comparison of two, and what a store of records holds."""

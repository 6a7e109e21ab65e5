"""Reports: pure functions over priced shares, and their rendering."""

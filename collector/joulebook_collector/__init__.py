"""The collector: an append-only ledger, grid and facility data, and pricing as a join."""

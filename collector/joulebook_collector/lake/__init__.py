"""The lake: closed hours of the ledger in immutable Parquet files, named by manifests (docs/reference/lake.md)."""

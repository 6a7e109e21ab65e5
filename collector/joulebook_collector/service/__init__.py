"""The service: HTTP in front of one ledger (docs/how-to/run-a-collector.md)."""

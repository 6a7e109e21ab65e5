"""What the measurements of bench/ share: costs of processes, a simulated node, peers, results."""

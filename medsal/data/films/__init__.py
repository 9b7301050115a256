"""Films and skin scans: reading them, their tables, truth and splits, and the one chain that prepares them."""

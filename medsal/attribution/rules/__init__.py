"""Rules on operations: how DeepLIFT and LRP hand differences and relevance back, operation by operation."""

"""Config fragments that all bundles share, as package data."""

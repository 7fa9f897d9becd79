"""Measures: how dissimilar two patterns are, and how similar two RDMs are."""

"""RDMs to similarity, with its uncertainty."""

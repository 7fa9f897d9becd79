"""RDM files by format: each module reads a file as `Held` and writes RDMs as bytes."""

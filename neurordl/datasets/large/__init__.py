"""Large public fMRI data sets, read from the folders in which they were published: a file for each set.

They are not in the registry: whoever wants to use them registers, or downloads far more than `fetch` is for.
Every loader returns single trials or images (rows) of the voxels of some ROIs as a Dataset, read in blocks;
`reading` has what the loaders share.
"""

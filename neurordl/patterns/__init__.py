"""Things to patterns: the responses of channels (units, voxels, neurons) to stimuli."""

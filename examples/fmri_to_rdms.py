"""From BOLD series and events to RDMs.

The simulated study in ``data/simulated_fmri`` has three subjects, six runs each, and two ROIs. One call
reads the images and estimates a pattern for each stimulus and run with a GLM; another computes
cross-validated distances between the patterns. The script prints how similar each subject's RDM
is to the true geometry of the simulation.
"""

from pathlib import Path

import neurordl as nrl

study = Path(__file__).parents[1] / "data" / "simulated_fmri" / "study"

# One Dataset per subject: rows are stimuli in runs, columns are voxels with their ROI.
regions = nrl.Regions(study / "atlas.nii.gz", labels=study / "atlas.tsv")
patterns = nrl.read_bids(study, task="sim", mask=regions)
rdms = nrl.compute_rdms(patterns, "crossnobis", center="run")
print(f"{rdms.n_rdm} RDMs of {rdms.n_cond} stimuli")

truth = nrl.load_rdms(study / "truth.h5")
for roi in ("IT", "EVC"):
    similarity = nrl.compare(truth.subset("roi", roi), rdms.subset("roi", roi), "corr")
    print(f"{roi}: correlation with the true RDM {similarity.round(2).tolist()}, one value per subject")

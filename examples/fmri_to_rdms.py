"""From BOLD series and events to RDMs
===================================

The simulated study in ``data/simulated_fmri`` has three subjects, six runs each, and two ROIs. One call
reads the images and estimates a pattern for each stimulus and run with a GLM; another computes
cross-validated distances between the patterns. The script prints how similar each subject's RDM
is to the true geometry of the simulation, and draws both for one region.
"""

from pathlib import Path

import matplotlib.pyplot as plt

import neurordl as nrl

study = Path(nrl.__file__).parents[1] / "data" / "simulated_fmri" / "study"

# %%
# One Dataset for each subject: rows are stimuli in runs, columns are voxels with their ROI.
regions = nrl.Regions(study / "atlas.nii.gz", labels=study / "atlas.tsv")
patterns = nrl.read_bids(study, task="sim", mask=regions)
rdms = nrl.compute_rdms(patterns, "crossnobis", center="run")
print(f"{rdms.n_rdm} RDMs of {rdms.n_cond} stimuli")

# %%
# How near are they to the truth?
truth = nrl.load_rdms(study / "truth.h5")
for roi in ("IT", "EVC"):
    similarity = nrl.compare(truth.subset("roi", roi), rdms.subset("roi", roi), "corr")
    print(f"{roi}: correlation with the true RDM {similarity.round(2).tolist()}, one value per subject")

# %%
# The RDM of IT: the truth, and the mean over the subjects, with the stimuli in the same order.
pair = {
    "simulated": nrl.select_rdms(truth, roi="IT"),
    "measured": nrl.select_rdms(rdms, roi="IT", average="subject"),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, (title, rdm) in zip(axes, pair.items(), strict=True):
    rdm.sort_by(stimulus="alpha")
    nrl.plot_rdm(rdm, ax, rank=True).set_title(title)
plt.show()

"""The liver on one GPU with all 131 scans: what `best_cpu` found out, and what only whole scans can give.

Against `best_cpu`: resnet34, 256², larger batches, more steps, slower averages, which suit a GPU and 131 patients; and
slices without liver of the scans themselves, one for each with liver, in place of those made by erasing or from the
left half: Task03_Liver has twice as many of them as of liver slices, the excerpts that `best_cpu` was chosen on none.
Expectation: better than `best_cpu` wherever other parts of the body are in the picture, from the lungs to the pelvis.

    make train EXP=best                           # about 600,000 samples: hours on one GPU

Came out: nothing yet. It has not been trained on a GPU, and no number is claimed; that it trains was seen
at 64² on phantoms.
"""

from tf_liver.experiment import load, replace

EXPERIMENT = replace(
    load("best_cpu"),
    name="best",
    backbone="resnet34",
    image_size=256,
    negative_ratio=1.0,
    augmentation="affine_intensity",
    batch_size=16,
    epochs=20,
    warmup_epochs=0.5,
    averaging=0.999,
    batch_norm_momentum=0.99,
)

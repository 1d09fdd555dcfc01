"""The specification to the letter; every other experiment is a change to this table.

Task03_Liver; liver-positive 2-D slices; negatives clipped to zero, each slice divided by its own maximum;
resize, rotation, flips; segmentation_models Unet("resnet34") with one input channel and one sigmoid output;
256 × 256; mixed precision. Where the specification is silent (batch, epochs, learning rate, schedule, folds)
the values are the usual ones of 2-D U-Net training.

    make train EXP=baseline
    make train EXP=baseline DATA=… FOLD=0 ARGS="--image-size 128 --batch-size 8 --epochs 40"    # two cores

Expected on one GPU with all 131 scans: hours. Came out on two CPU cores, five real scans, 128²: held-out Dice 0.926
(best checkpoint), 0.872 (last), and 0.002 on scans from other scanners. More: experiments/LOG.md.
"""

from tf_liver.experiment import Experiment

EXPERIMENT = Experiment(
    name="baseline",
    task="liver",
    normalisation="clip_max",
    window_hu=(-100.0, 250.0),  # read by the normalisation "window" only
    image_size=256,
    neighbours=0,
    negative_ratio=0.0,
    tumour_ratio=0.0,
    augmentation="flip_rotate",
    backbone="resnet34",
    encoder_weights="none",
    decoder_dropout=0.0,
    tumour_head="regions",  # read by the task "tumour" only
    batch_norm_momentum=0.99,
    loss="bce",
    batch_size=16,
    epochs=50,
    optimizer="adam",
    weight_decay=0.0,
    learning_rate=1e-3,
    warmup_epochs=0.0,
    schedule="plateau",
    early_stopping=15,
    averaging=0.0,
    precision="auto",
    folds=5,
    postprocessing="none",
)

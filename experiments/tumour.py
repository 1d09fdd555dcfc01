"""The liver and, in it, tumours: two regions, focal Tversky beside cross-entropy, slices with tumour drawn twice.

Expectation: tumours are 0.03 to 1 % of the liver in the five real cases, in one slice of four; cross-entropy and Dice
alone let the tumour's channel fall to zero and stay there. Focal Tversky weighs what is missed 0.7 to 0.3 and badly
found regions more than good ones; oversampling shows tumours more often. The liver should not suffer. Training is
steered, and its best weights are chosen, by the mean of the Dice of liver and tumour (model/metrics.py).

    make train EXP=tumour
    make train EXP=tumour DATA=… FOLD=4 ARGS="--image-size 128 --backbone resnet18 --batch-size 4 --epochs 5 \\
        --schedule cosine --batch-norm-momentum 0.9 --tumour-ratio 10"        # two cores, 5 minutes

Came out (the last command, two seeds): liver 0.94, tumour 0.33 and 0.36 on the patient held out, with 1 and 0 of 12
lesions found. Cross-entropy and Dice, with the same oversampling, came to 0.28: they did not stay at zero as expected.
Three classes instead of two regions: tumour 0.00 and 0.03. More: experiments/LOG.md.
"""

from tf_liver.experiment import load, replace

EXPERIMENT = replace(load("window"), name="tumour", task="tumour", loss="bce_focal_tversky", tumour_ratio=1.0)

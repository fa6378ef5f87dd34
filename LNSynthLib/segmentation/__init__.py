"""nnU-Net as the segmenter: data sets for it, training, prediction, and a filter of synthetic pairs."""

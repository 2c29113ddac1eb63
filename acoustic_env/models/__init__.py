"""From feature tables to classifiers. A module imports only from its own room and those above it.

data/        features of clips as arrays or frames, targets, groups, windows, preprocessing
training/    the loop that trains a network, in one process and on Ray Train
estimators/  one file a kind of classifier on scikit-learn's contract, and what they share
validation/  out-of-fold predictions, calibration, thresholds, performance
learn.py     from a clip list, a store and a recipe to a bundle; its evaluation
tune.py      search of settings; compare.py: blocks, signals and classifiers in one table
bundle.py    a trained classifier as a folder; predictor.py answers for audio, predict.py for lists
"""

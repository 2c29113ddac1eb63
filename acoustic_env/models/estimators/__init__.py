"""The classifiers: one file per kind, with its settings, its estimator and its search space.

To add one, write a subclass of `ClassifierSettings` and name it in `config.CLASSIFIERS`, or in the entry-point group
`acoustic_env.classifiers` of another package.
"""

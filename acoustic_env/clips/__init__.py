"""What to process: the clip list, its sources, recipes, splits and checks."""

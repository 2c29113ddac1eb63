"""The commands of the command line, a module for each group: arguments in, a room called, results out."""

"""What another package adds to acoustic-env: a feature block and a signal."""

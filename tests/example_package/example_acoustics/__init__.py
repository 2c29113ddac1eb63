"""What another package adds to acoustic-env: a feature block, a signal and a reader of clip lists."""

"""What another package adds to acoustic-env: a feature block, a signal, a classifier and a reader of clip lists."""

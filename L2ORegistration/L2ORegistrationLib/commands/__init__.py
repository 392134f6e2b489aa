"""The commands of `l2o-registration`, a file each; cli.py puts them together."""

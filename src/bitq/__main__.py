"""`python -m bitq` is `bitq`."""

from bitq.cli import main

main()

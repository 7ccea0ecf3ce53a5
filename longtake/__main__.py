"""`python -m longtake` is the command line."""

from longtake.apps.cli import main

main()

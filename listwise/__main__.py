"""`python -m listwise`: the command `listwise`."""

from listwise.command import main

main()

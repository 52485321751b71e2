"""`python -m userfault` is the command `userfault`."""

from userfault.cli.start import main

if __name__ == "__main__":
    main()

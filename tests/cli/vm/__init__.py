"""The command `userfault`, run as users run it."""

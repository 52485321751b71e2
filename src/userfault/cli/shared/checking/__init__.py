"""What `check` and `lab run KERNEL... -- check` share: the options, and all that is reported."""

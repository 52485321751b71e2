"""The command `userfault`: thin, one file a subcommand."""

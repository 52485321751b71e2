"""The daemon: clients of other people's programs come by sockets, and are served by one family."""

"""Tasks, who of them runs next, and the locks that they sleep for."""

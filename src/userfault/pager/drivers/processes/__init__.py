"""How a process of the pager is started, and how it speaks: interpreter, standard error, texts."""

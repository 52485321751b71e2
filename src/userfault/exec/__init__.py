"""Programs that know nothing of a pager, started so that their mappings of files are lazy memory.

One comes here to start one (`running`): a small library is preloaded (`preload.c`, made by
`library`) that hands each mapping of a named file (`files`) to the command, which has a pager serve
it (`giving`).
"""

"""The driver for the model kernel: what the one for Linux is made of, with the model's calls.

Come here to have a pager in a modelled world.  Loop, intake, fills, reads, records, journal and
recovery are those of the driver for Linux; here is what they stand on there: the calls (`calls`),
waiting (`waiting`), memory that outlives a worker (`memory`), the threads that read the source
(`readers`), whom it serves (`served`), and the worker with its successors (`worker`).
"""

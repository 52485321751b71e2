"""What outlives a killed worker: the journal, what is recorded there, what a client is shown."""

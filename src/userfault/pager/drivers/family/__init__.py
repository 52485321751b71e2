"""Worker, supervisor and spare: who watches whom, who goes on for whom, and the next family."""

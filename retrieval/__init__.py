"""Questions, ranked answers, their evaluation, and the command line."""

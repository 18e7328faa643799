"""The page: one file that shows what a run, an evaluation or a comparison came to, and all that was written in it."""

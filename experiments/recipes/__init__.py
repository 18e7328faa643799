"""Roads of several stages: what a recipe is, how its stages are carried out, and what came of them."""

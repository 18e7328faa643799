"""What a model is: its name, its chat template, its adapters; and the small ones that come with the package."""

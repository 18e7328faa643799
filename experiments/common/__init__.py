"""What the commands share: settings, the run folder, what is shown, the model card."""

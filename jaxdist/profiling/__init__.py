"""Where a step's time goes, operator by operator: `profile.at_epochs`, `profile.updates`."""

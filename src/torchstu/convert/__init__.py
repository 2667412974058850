"""From one kind of model to another, by formula."""

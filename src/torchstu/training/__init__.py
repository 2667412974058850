"""Deep models trained from a recipe: one file says data, model, optimizer and trainer."""

"""How weights are found, and how they are judged."""

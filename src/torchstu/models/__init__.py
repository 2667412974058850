"""Models made of mixers, and how they are stored."""

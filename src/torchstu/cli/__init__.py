"""The command ``torchstu``: parse and call; nothing heavy is imported before a command runs."""

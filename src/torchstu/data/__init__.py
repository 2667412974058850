"""Data: files of users, the shipped recording, and scaling."""

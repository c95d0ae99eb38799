"""A small application for the check of Django."""

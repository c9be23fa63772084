"""Installs Python packages into a project's virtual environment."""

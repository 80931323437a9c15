"""Measurements behind the documents' claims: run from the repository, not part of the wheel."""

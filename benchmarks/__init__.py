"""Measurements behind the README's claims: run from the repository, not part of the wheel."""

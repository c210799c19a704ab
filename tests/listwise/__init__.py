"""Tests of the package for notebooks."""

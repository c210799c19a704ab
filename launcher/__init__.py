"""The front door: recipe, command line, the stages in order, and the report."""

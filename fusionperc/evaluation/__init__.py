"""Official metrics and reports."""

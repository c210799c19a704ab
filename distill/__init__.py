"""From queries to candidate lists, from lists to a specialised student, and its evaluation."""

"""The judge: a language model looks at written queries once more, with a rubric.

In reading order: settings; rubric (the criteria); prompts (what the model is shown); grades (from logits to a number);
engines (who computes the logits); stage (the table GRADES); verdict (the table APPROVED, without the queries that go).
"""

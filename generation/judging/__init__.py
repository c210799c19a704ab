"""The judge: a language model looks at written queries once more, with a rubric or by their likelihood.

In reading order: settings; rubric (the criteria); prompts (what the model is shown) or likelihood (without a question);
grades (from logits to a number); judged, vllm_judge, transformers_judge, engines (who computes the logits); stage (the
table GRADES); verdict (the table APPROVED, without the queries that go).
"""

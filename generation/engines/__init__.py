"""Engines that write queries: vLLM, any OpenAI-compatible server, and extraction without a language model."""

"""The engine `vllm`: a whole population in one call of vLLM, one adapter per candidate."""

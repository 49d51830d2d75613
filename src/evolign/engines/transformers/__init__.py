"""The engine `transformers`: a whole population in one model, in this process."""

"""The policy: a frozen base model, a LoRA adapter, and the space inside it that evolution searches."""

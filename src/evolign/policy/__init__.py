"""The policy: a frozen base model, a LoRA adapter, and the space inside it that evolution searches.

`SPACES` maps the name of a search space in a recipe to its class.
"""

SPACES = {
    "singular_values": "evolign.policy.singular_values:SingularValues",
    "lora": "evolign.policy.lora:LoraFactors",
}

"""Search spaces: families of adapters around the one that the search starts from.

`SPACES` maps the name of a search space in a recipe to its class.
"""

SPACES = {
    "singular_values": "evolign.policy.spaces.singular_values:SingularValues",
    "lora": "evolign.policy.spaces.lora:LoraFactors",
}

"""What a model's weights may be; free of imports, since every start needs it."""

WEIGHT_TYPES = ("f32", "f16", "bf16", "q8", "q4")
